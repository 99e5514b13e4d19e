/* BLAKE2b (RFC 7693) of many short messages, eight at a time, with AVX-512.
 *
 * A vector holds one 64-bit word of eight messages. A message of up to 128 bytes is one block: it is copied into a row
 * of zeros, eight rows are transposed, and all are compressed side by side, each with its own length in its counter. A
 * key is a block of its own, the same for all messages; the state after it is worked out once.
 *
 * Time depends on lengths only. Every function checks each length by which it reads or writes, and returns 0, or 1 for
 * a refused argument. The caller makes sure that the buffers are as long as the counts it passes say.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { DONE = 0, REFUSED = 1 };

/* Goes up whenever a function takes other arguments or data than before: an older library then counts as not built. */
int vfl_blake2b_interface(void) { return 2; }

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f")))
#define INLINE TARGET static inline __attribute__((always_inline))

typedef __m512i v8; /* one word of eight messages */

enum { LANES = 8, BLOCK = 128, WORDS = 16, STATE = 8, MOST_DIGEST = 64, MOST_KEY = 64, PERSON = 16 };

static const uint64_t IV[STATE] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};

#define MIX(a, b, c, d, x, y)                                                                                          \
    do {                                                                                                               \
        a = _mm512_add_epi64(_mm512_add_epi64(a, b), x);                                                               \
        d = _mm512_ror_epi64(_mm512_xor_si512(d, a), 32);                                                              \
        c = _mm512_add_epi64(c, d);                                                                                    \
        b = _mm512_ror_epi64(_mm512_xor_si512(b, c), 24);                                                              \
        a = _mm512_add_epi64(_mm512_add_epi64(a, b), y);                                                               \
        d = _mm512_ror_epi64(_mm512_xor_si512(d, a), 16);                                                              \
        c = _mm512_add_epi64(c, d);                                                                                    \
        b = _mm512_ror_epi64(_mm512_xor_si512(b, c), 63);                                                              \
    } while (0)

#define ROUND(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, sa, sb, sc, sd, se, sf)                                          \
    do {                                                                                                               \
        MIX(v[0], v[4], v[8], v[12], m[s0], m[s1]);                                                                    \
        MIX(v[1], v[5], v[9], v[13], m[s2], m[s3]);                                                                    \
        MIX(v[2], v[6], v[10], v[14], m[s4], m[s5]);                                                                   \
        MIX(v[3], v[7], v[11], v[15], m[s6], m[s7]);                                                                   \
        MIX(v[0], v[5], v[10], v[15], m[s8], m[s9]);                                                                   \
        MIX(v[1], v[6], v[11], v[12], m[sa], m[sb]);                                                                   \
        MIX(v[2], v[7], v[8], v[13], m[sc], m[sd]);                                                                    \
        MIX(v[3], v[4], v[9], v[14], m[se], m[sf]);                                                                    \
    } while (0)

/* F of RFC 7693, section 3.2: one block of eight messages; counter: bytes hashed with this block; last: all ones or 0. */
INLINE void compress(v8 h[STATE], const v8 m[WORDS], v8 counter, v8 last) {
    v8 v[16];
    for (int i = 0; i < STATE; i++) {
        v[i] = h[i];
        v[i + 8] = _mm512_set1_epi64((long long)IV[i]);
    }
    v[12] = _mm512_xor_si512(v[12], counter);
    v[14] = _mm512_xor_si512(v[14], last);
    ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3);
    ROUND(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4);
    ROUND(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8);
    ROUND(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13);
    ROUND(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9);
    ROUND(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11);
    ROUND(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10);
    ROUND(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5);
    ROUND(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0);
    ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3);
    for (int i = 0; i < STATE; i++) h[i] = _mm512_xor_si512(h[i], _mm512_xor_si512(v[i], v[i + 8]));
}

/* Eight rows of eight words become eight columns: r[i] holds word i of every row. */
INLINE void transpose(v8 r[LANES]) {
    v8 a[LANES], b[LANES];
    for (int i = 0; i < LANES; i += 2) {
        a[i] = _mm512_unpacklo_epi64(r[i], r[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi64(r[i], r[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4)
        for (int j = 0; j < 2; j++) {
            b[i + j] = _mm512_shuffle_i64x2(a[i + j], a[i + j + 2], 0x88);
            b[i + j + 2] = _mm512_shuffle_i64x2(a[i + j], a[i + j + 2], 0xdd);
        }
    for (int j = 0; j < 4; j++) {
        r[j] = _mm512_shuffle_i64x2(b[j], b[j + 4], 0x88);
        r[j + 4] = _mm512_shuffle_i64x2(b[j], b[j + 4], 0xdd);
    }
}

/* The first words of eight messages, those from words on being zero. */
INLINE void load(v8 m[WORDS], const uint8_t rows[LANES][BLOCK], size_t longest) {
    for (int i = 0; i < LANES; i++) m[i] = _mm512_loadu_si512(rows[i]);
    transpose(m);
    if (longest > BLOCK / 2) {
        for (int i = 0; i < LANES; i++) m[i + 8] = _mm512_loadu_si512(rows[i] + BLOCK / 2);
        transpose(m + 8);
    } else {
        for (int i = 0; i < LANES; i++) m[i + 8] = _mm512_setzero_si512();
    }
}

/* The state before the first message: parameters (RFC 7693, section 2.5, and BLAKE2's for the person), then the key. */
TARGET static void begin(v8 h[STATE], size_t width, const uint8_t *key, size_t key_size, const uint8_t person[PERSON]) {
    uint64_t words[2];
    memcpy(words, person, PERSON);
    for (int i = 0; i < STATE; i++) {
        uint64_t word = IV[i] ^ (i == 0 ? 0x01010000 ^ (uint64_t)key_size << 8 ^ (uint64_t)width : 0);
        h[i] = _mm512_set1_epi64((long long)(i < 6 ? word : word ^ words[i - 6]));
    }
    if (key_size) {
        uint8_t rows[LANES][BLOCK] = {{0}};
        v8 m[WORDS];
        for (int i = 0; i < LANES; i++) memcpy(rows[i], key, key_size);
        load(m, (const uint8_t(*)[BLOCK])rows, key_size);
        compress(h, m, _mm512_set1_epi64(BLOCK), _mm512_setzero_si512());
    }
}

/* Digests of count messages, one after the other in data; message i ends where message i + 1 begins, at ends[i].
 * Every message has 1 to 128 bytes (without a key also 0). Digests stand width bytes each in out.
 */
TARGET int vfl_blake2b_hash(const uint8_t *data, const uint64_t *ends, size_t count, const uint8_t *key, size_t key_size,
                            const uint8_t *person, uint8_t *out, size_t width) {
    if (width < 1 || width > MOST_DIGEST || key_size > MOST_KEY) return REFUSED;
    uint8_t rows[LANES][BLOCK], digests[LANES][MOST_DIGEST];
    v8 start[STATE], h[STATE], m[WORDS];
    size_t at = 0;
    begin(start, width, key, key_size, person);
    for (size_t i = 0; i < count; i += LANES) {
        size_t lanes = count - i < LANES ? count - i : LANES, longest = 0;
        uint64_t counters[LANES] = {0};
        memset(rows, 0, sizeof rows);
        for (size_t j = 0; j < lanes; j++) {
            size_t size = ends[i + j] - at;
            if (ends[i + j] < at || size > BLOCK || (key_size && !size)) return REFUSED;
            memcpy(rows[j], data + at, size);
            counters[j] = size + (key_size ? BLOCK : 0);
            longest = size > longest ? size : longest;
            at += size;
        }
        load(m, (const uint8_t(*)[BLOCK])rows, longest);
        memcpy(h, start, sizeof h);
        compress(h, m, _mm512_loadu_si512(counters), _mm512_set1_epi64(-1));
        transpose(h);
        for (int j = 0; j < LANES; j++) _mm512_storeu_si512(digests[j], h[j]);
        for (size_t j = 0; j < lanes; j++) memcpy(out + (i + j) * width, digests[j], width);
    }
    return DONE;
}

/* Whether this processor has what the code above needs. */
int vfl_blake2b_runs(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") != 0;
}

#else

int vfl_blake2b_hash(const uint8_t *data, const uint64_t *ends, size_t count, const uint8_t *key, size_t key_size,
                     const uint8_t *person, uint8_t *out, size_t width) {
    (void)data, (void)ends, (void)count, (void)key, (void)key_size, (void)person, (void)out, (void)width;
    return REFUSED;
}

int vfl_blake2b_runs(void) { return 0; }

#endif
