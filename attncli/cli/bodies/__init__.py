"""The body of each command, which runs after its options are parsed: one file per command, imported when it runs."""
