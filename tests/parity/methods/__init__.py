"""Golden numbers of the compared methods, one folder and one test file each."""
