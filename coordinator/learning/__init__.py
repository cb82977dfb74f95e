"""What runs on the workstation: evaluation."""
