"""OpenAI's form of requests for texts: their fields, the texts that they ask for, and the answers."""
