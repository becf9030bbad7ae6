"""Everything that is drawn: findings, plans and reports to Rich objects and JSON. No torch."""
