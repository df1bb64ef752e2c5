"""What SECURITY.md promises: files that others made run nothing, leave no folder, and reach no network."""
