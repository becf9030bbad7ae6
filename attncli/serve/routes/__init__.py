"""The routes of the server, one file for each group; each has a function `routes(service)`."""
