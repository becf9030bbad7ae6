"""The commands of `attncli circuit`."""
