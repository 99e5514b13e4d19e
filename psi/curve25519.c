/* X25519 (RFC 7748), eight points at a time. */

/* Goes up whenever a function takes other arguments or data than before: an older library then counts as not built. */
int vfl_curve25519_interface(void) { return 1; }
