"""What leads where, and whether it may pass now: the gates and the route table. No sockets."""
