/* Matrices of bits, transposed. */
#include <stddef.h>
#include <stdint.h>

enum { DONE = 0, REFUSED = 1 };

/* Goes up whenever a function takes other arguments or data than before: an older library then counts as not built. */
int vfl_bits_interface(void) { return 1; }

/* Squares of 8 x 8 bits; and bytes of a row that are done at a time, so that the rows they become stay in the cache. */
enum { SIDE = 8, TILE = 64 };

/* Of each square of a tile, held in a word, row i becomes column i (H. Warren, Hacker's Delight, section 7-3). */
static void turn(uint64_t *squares) {
    for (size_t i = 0; i < TILE; i++) {
        uint64_t x = squares[i], swap;
        swap = (x ^ x >> 7) & 0x00aa00aa00aa00aa;
        x ^= swap ^ swap << 7;
        swap = (x ^ x >> 14) & 0x0000cccc0000cccc;
        x ^= swap ^ swap << 14;
        swap = (x ^ x >> 28) & 0x00000000f0f0f0f0;
        squares[i] = x ^ swap ^ swap << 28;
    }
}

/* (rows, width) bytes become (8 width, rows / 8): bit j of a row is bit j mod 8 of its byte j div 8. */
int vfl_bits_transpose(const uint8_t *in, size_t rows, size_t width, uint8_t *out) {
    if (rows % SIDE) return REFUSED;
    size_t groups = rows / SIDE;
    for (size_t start = 0; start < width; start += TILE) {
        size_t count = width - start < TILE ? width - start : TILE;
        for (size_t group = 0; group < groups; group++) {
            uint64_t squares[TILE] = {0};
            for (size_t row = 0; row < SIDE; row++) {
                const uint8_t *from = in + (group * SIDE + row) * width + start;
                for (size_t i = 0; i < count; i++) squares[i] |= (uint64_t)from[i] << (8 * row);
            }
            turn(squares);
            for (size_t i = 0; i < count; i++)
                for (size_t bit = 0; bit < SIDE; bit++)
                    out[((start + i) * SIDE + bit) * groups + group] = (uint8_t)(squares[i] >> (8 * bit));
        }
    }
    return DONE;
}
