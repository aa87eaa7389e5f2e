"""The command line: arguments, signals, the terminal, log, progress, the lock of a folder, exit statuses."""
