/* BLAKE2b (RFC 7693), eight messages at a time. */

/* Goes up whenever a function takes other arguments or data than before: an older library then counts as not built. */
int vfl_blake2b_interface(void) { return 1; }
