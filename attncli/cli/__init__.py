"""The command line: parses the options, calls the library, renders the result. One file per command."""
