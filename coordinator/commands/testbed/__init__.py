"""A lab of boards, driven from one terminal over SSH."""
