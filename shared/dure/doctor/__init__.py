"""What `dure doctor` looks at. Each check says what is found and, where something is wrong, what to do about it."""
