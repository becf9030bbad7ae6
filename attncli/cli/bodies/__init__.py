"""What each command does once its options are read: one file for each command, imported when it runs."""
