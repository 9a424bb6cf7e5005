"""What each target runs, and the lowering for it."""
