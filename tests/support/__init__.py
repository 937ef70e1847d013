"""What several tests share: deadlines for waits, a network cable that can be cut, fresh database pairs."""
