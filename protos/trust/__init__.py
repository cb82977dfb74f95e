"""Who is who on the wire: names in certificates, tokens of enrolment, and what both ends compute of them."""
