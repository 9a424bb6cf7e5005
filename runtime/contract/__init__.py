"""The manifest, its kinds, and the bundle whose files it lists."""
