"""Hand data sets: folder trees, 11k Hands, HD, PolyU FKP."""
