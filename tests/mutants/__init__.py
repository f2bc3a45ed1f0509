"""Do the tests bite? Each mutant takes one guard out of a copy of the code; the named tests must then fail."""
