"""One module a stage: open, call the method, write, count; each returns its facts for the receipt."""
