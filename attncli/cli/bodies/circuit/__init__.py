"""The bodies of the commands of `attncli circuit`."""
