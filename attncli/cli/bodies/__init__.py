"""The bodies of the commands, one file for each. A command imports its body when it runs, after parsing its options."""
