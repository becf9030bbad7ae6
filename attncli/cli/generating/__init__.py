"""The modules of `attncli generate`: the prompts, the session, the display, --verify and --interactive."""
