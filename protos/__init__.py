"""What both ends must agree on: messages, arithmetic, bundle format, plan."""
