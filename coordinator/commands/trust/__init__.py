"""Commands about who belongs to the fleet."""
