"""From reports to one change of the head: what they must be, and how they are added up."""
