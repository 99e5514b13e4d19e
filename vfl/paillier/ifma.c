/* Products modulo n^2, eight at a time, with AVX-512 IFMA. See docs/decisions/paillier-ifma-kernel.md for measurements.
 *
 * Numbers. x modulo n^2 is held as a pair (x0, x1), x = x0 + x1 n, in Montgomery form (x R for x, R = 2^(52 L)). Either
 * part has L digits of 52 bits, one to a 64-bit word, so that a number is a row of 2 L words. A vector holds one digit
 * of eight numbers: eight rows are transposed on loading, and their products are worked out side by side.
 *
 * Products. With x0 y0 = R r - m n (Montgomery's reduction, its quotient m kept),
 *
 *     x y / R = r + ((x0 y1 + x1 y0 - m) / R mod n) n     modulo n^2:
 *
 * three half-size products and two half-size reductions, where plain arithmetic modulo n^2 has the work of eight.
 * (S. Gueron and V. Krasnov, "Software implementation of modular exponentiation, using advanced vector instructions
 * architectures", 2012, for the digits.) Half-size products of forty digits and more go by Karatsuba's way on halves.
 *
 * Factors that are used again and again are held as (y0, u), y = y0 (1 + u n), u in Montgomery form modulo n: their
 * product is that of the y0, two half-size products each, times 1 + n sum u, once. They are called logarithmic here.
 *
 * Why no digit overflows and no last subtraction is needed. Let x0, x1, y0, y1 < 8 n and R >= 2^8 n (`ifma_kernel`
 * chooses L so). Then x0 y0 < 2^6 n^2 <= R n / 4, so that r = (x0 y0 + m n) / R < (1/4 + 1) n, and the other sum T
 * satisfies -R < T < R n / 2, so that its reduction r1 is an integer with -1 < r1 < (1/2 + 1) n. Both are below 2 n:
 * what comes out may go in again, for ever, and what is put in (`enter`) may be as large as 8 n. A sum of I u's below
 * 2 n each goes in as y1 < (2 I + 1) n beside y0 < n and x0, x1 < 2 n: T < (4 I + 4) n^2, by I's choice <= R n / 2.
 * A column of T adds up at most 2 L low and 2 L high halves of products, each below 2^52, as much again in the
 * reduction, and in between the same amounts with either sign (Karatsuba), twice: below 12 L 2^52 < 2^62 for L <= 80.
 * Columns are signed, and carries are arithmetic shifts.
 *
 * Time. Nothing here branches on a digit, a number or a secret exponent, or takes an address from one: the look-ups of
 * `fixed_base` and `power` read whole tables. Lengths, indices and moduli are not protected.
 *
 * Every function checks each index and length by which it reads or writes, and returns 0, or 1 for a refused argument,
 * or 2 if memory ran out. The caller makes sure that the buffers are as long as the counts it passes say.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { DONE = 0, REFUSED = 1, NO_MEMORY = 2 };

/* Goes up whenever a function takes other arguments or data than before: an older library then counts as not built. */
int vfl_ifma_interface(void) { return 1; }

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512ifma,avx512vbmi")))
#define INLINE TARGET static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef __m512i v8; /* one digit of eight numbers */

enum {
    LANES = 8,
    BLOCK = 10, /* digits that one base product keeps in registers: 10 + 11 + 1 of 32 */
    MOST_DIGITS = 80,
    ENTRIES = 256,   /* of one window of a fixed base */
    ENTRY_BYTES = 7, /* that a digit fills */
};

#define DIGIT_BITS 52
#define DIGIT_MASK ((UINT64_C(1) << DIGIT_BITS) - 1)

#define LOW(sum, x, y) ((sum) = _mm512_madd52lo_epu64((sum), (x), (y)))
#define HIGH(sum, x, y) ((sum) = _mm512_madd52hi_epu64((sum), (x), (y)))
#define ADD _mm512_add_epi64
#define SUB _mm512_sub_epi64
#define CARRY(x) _mm512_srai_epi64((x), DIGIT_BITS)
#define ZERO _mm512_setzero_si512()
#define KARATSUBA(digits) ((digits) / 2 >= 2 * BLOCK && (digits) / 2 % BLOCK == 0)

typedef struct {
    int digits;          /* L */
    int64_t most_summed; /* u's of logarithmic numbers that may be added up: 2^10, and (4 I + 4) n <= R / 2 */
    v8 n[MOST_DIGITS], n_twice[MOST_DIGITS];
    v8 n_inverse;              /* -1 / n modulo 2^52 */
    v8 r_squared[MOST_DIGITS]; /* R^2 modulo n */
    v8 one[2 * MOST_DIGITS];   /* R modulo n^2 = R0 + R1 n */
    const uint64_t *one_row;   /* the same; and one as a logarithmic number: R0 = R, so that u R = R1 modulo n */
} modulus;

/* ---- Products of L digits ---- */

/* T[0 .. count + 10) += A B for `count` digits A and ten digits B; only `held` columns of T hold anything yet.
 * Ten columns at a time stay in registers until nothing more is added to them. */
INLINE void multiply_strip(v8 *restrict T, const int held, const v8 *A, const int count, const v8 *B)
{
    v8 b[BLOCK], w[BLOCK + 1];
    UNROLL for (int k = 0; k < BLOCK; k++) { b[k] = B[k]; w[k] = k < held ? T[k] : ZERO; }
    for (int j = 0; j < count; j++) {
        const v8 a = A[j];
        w[BLOCK] = BLOCK + j < held ? T[BLOCK + j] : ZERO;
        UNROLL for (int k = 0; k < BLOCK; k++) LOW(w[k], a, b[k]);
        UNROLL for (int k = 0; k < BLOCK; k++) HIGH(w[k + 1], a, b[k]);
        T[j] = w[0];
        UNROLL for (int k = 0; k < BLOCK; k++) w[k] = w[k + 1];
    }
    UNROLL for (int k = 0; k < BLOCK; k++) T[count + k] = w[k];
}

/* T[0 .. 2 count) = A B, or += A B if `more`. */
INLINE void multiply_digits(v8 *restrict T, const v8 *A, const v8 *B, const int count, const int more)
{
    for (int at = 0; at < count; at += BLOCK)
        multiply_strip(T + at, more ? count + BLOCK : at ? count : 0, A, count, B + at);
}

/* T[0 .. 20) = 2 T + A^2 for ten digits: products of unequal digits once, doubled, then the squares. */
INLINE void square_block(v8 *restrict T, const v8 *A)
{
    v8 w[2 * BLOCK], a[BLOCK];
    UNROLL for (int k = 0; k < BLOCK; k++) a[k] = A[k];
    UNROLL for (int k = 0; k < 2 * BLOCK; k++) w[k] = T[k];
    UNROLL for (int j = 0; j < BLOCK; j++) {
        UNROLL for (int k = j + 1; k < BLOCK; k++) LOW(w[j + k], a[j], a[k]);
        UNROLL for (int k = j + 1; k < BLOCK; k++) HIGH(w[j + k + 1], a[j], a[k]);
    }
    UNROLL for (int k = 0; k < BLOCK; k++) {
        w[2 * k] = ADD(w[2 * k], w[2 * k]);
        w[2 * k + 1] = ADD(w[2 * k + 1], w[2 * k + 1]);
        LOW(w[2 * k], a[k], a[k]);
        HIGH(w[2 * k + 1], a[k], a[k]);
        T[2 * k] = w[2 * k];
        T[2 * k + 1] = w[2 * k + 1];
    }
}

/* T[0 .. 2 count) = A^2. */
INLINE void square_digits(v8 *restrict T, const v8 *A, const int count)
{
    for (int k = 0; k < 2 * count; k++) T[k] = ZERO;
    for (int at = 0; at + BLOCK < count; at += BLOCK)
        multiply_strip(T + 2 * at + BLOCK, count - at, A + at + BLOCK, count - at - BLOCK, A + at);
    for (int at = 0; at < count; at += BLOCK) square_block(T + 2 * at, A + at);
}

/* The sum of the halves of a part of a number, with its carry: sum + carry 2^(52 L / 2). */
typedef struct {
    v8 sum[MOST_DIGITS / 2];
    __mmask8 carry;
} halves;

INLINE void add_halves(halves *h, const v8 *x, const int size)
{
    const v8 mask = _mm512_set1_epi64(DIGIT_MASK);
    v8 carry = ZERO;
    UNROLL for (int k = 0; k < size; k++) {
        const v8 t = ADD(ADD(x[k], x[size + k]), carry);
        h->sum[k] = _mm512_and_si512(t, mask);
        carry = CARRY(t);
    }
    h->carry = _mm512_test_epi64_mask(carry, carry);
}

INLINE v8 add_where(v8 x, __mmask8 where, v8 y) { return _mm512_mask_add_epi64(x, where, x, y); }

/* Karatsuba's last step. T holds the product of the low halves and that of the high halves, M that of the sums without
 * their carries a 2^(52 size) and b 2^(52 size): T += (M + carries - low - high) 2^(52 size). */
INLINE void add_middle(v8 *restrict T, const v8 *restrict M, const int size)
{
    for (int k = 0; k < size; k++) {
        const v8 t0 = T[k], t1 = T[size + k], t2 = T[2 * size + k], t3 = T[3 * size + k];
        T[size + k] = ADD(SUB(t1, t0), SUB(M[k], t2));
        T[2 * size + k] = ADD(SUB(t2, t1), SUB(M[size + k], t3));
    }
}

/* M[size ..] += the products with the carries of two sums. */
INLINE void add_carried(v8 *restrict M, const halves *a, const halves *b, const int size)
{
    for (int k = 0; k < size; k++)
        M[size + k] = add_where(add_where(M[size + k], a->carry, b->sum[k]), b->carry, a->sum[k]);
}

/* One factor of a product of L digits: its digits and the sum of their halves. */
typedef struct {
    const v8 *digits;
    const halves *sums;
} factor;

static const factor NOTHING = {NULL, NULL};

/* T[0 .. 2 L) = x y, or x y + z u if there is a z; by Karatsuba where halves are two blocks or more. */
INLINE void multiply(v8 *restrict T, const factor x, const factor y, const factor z, const factor u, const int digits)
{
    const int size = digits / 2, both = z.digits != NULL;
    if (!KARATSUBA(digits)) {
        multiply_digits(T, x.digits, y.digits, digits, 0);
        if (both) multiply_digits(T, z.digits, u.digits, digits, 1);
        return;
    }
    v8 M[MOST_DIGITS];
    multiply_digits(T, x.digits, y.digits, size, 0);
    if (both) multiply_digits(T, z.digits, u.digits, size, 1);
    multiply_digits(T + digits, x.digits + size, y.digits + size, size, 0);
    if (both) multiply_digits(T + digits, z.digits + size, u.digits + size, size, 1);
    multiply_digits(M, x.sums->sum, y.sums->sum, size, 0);
    if (both) multiply_digits(M, z.sums->sum, u.sums->sum, size, 1);
    add_carried(M, x.sums, y.sums, size);
    if (both) add_carried(M, z.sums, u.sums, size);
    add_middle(T, M, size);
    const v8 one = _mm512_set1_epi64(1);
    T[3 * size] = add_where(T[3 * size], x.sums->carry & y.sums->carry, one);
    if (both) T[3 * size] = add_where(T[3 * size], z.sums->carry & u.sums->carry, one);
}

/* T[0 .. 2 L) = x^2. */
INLINE void square(v8 *restrict T, const factor x, const int digits)
{
    const int size = digits / 2;
    if (!KARATSUBA(digits)) {
        square_digits(T, x.digits, digits);
        return;
    }
    v8 M[MOST_DIGITS];
    square_digits(T, x.digits, size);
    square_digits(T + digits, x.digits + size, size);
    square_digits(M, x.sums->sum, size);
    add_carried(M, x.sums, x.sums, size);
    add_middle(T, M, size);
    T[3 * size] = add_where(T[3 * size], x.sums->carry, _mm512_set1_epi64(1));
}

/* ---- Reduction ---- */

/* Clear ten digits of T: add q n for the ten quotient digits q that make them zero; T[0] holds the carry so far.
 * The triangle of n's first ten digits comes first, since each digit of q needs the one before. */
INLINE void reduce_block(v8 *restrict T, v8 *restrict q, const modulus *m, const int digits)
{
    const v8 *n = m->n;
    v8 w[BLOCK + 1];
    UNROLL for (int k = 0; k <= BLOCK; k++) w[k] = T[k];
    UNROLL for (int k = 0; k < BLOCK; k++) {
        v8 digit = ZERO;
        LOW(digit, w[k], m->n_inverse);
        q[k] = digit;
        UNROLL for (int j = 0; j + k < BLOCK; j++) LOW(w[k + j], n[j], digit);
        UNROLL for (int j = 0; j + k < BLOCK; j++) HIGH(w[k + j + 1], n[j], digit);
        w[k + 1] = ADD(w[k + 1], CARRY(w[k]));
    }
    v8 u[BLOCK + 1];
    u[0] = w[BLOCK];
    UNROLL for (int k = 1; k < BLOCK; k++) u[k] = T[BLOCK + k];
    UNROLL for (int j = 1; j < BLOCK; j++) {
        UNROLL for (int k = BLOCK - j; k < BLOCK; k++) LOW(u[j + k - BLOCK], n[j], q[k]);
        UNROLL for (int k = BLOCK - j; k < BLOCK; k++) HIGH(u[j + k - BLOCK + 1], n[j], q[k]);
    }
    for (int j = BLOCK; j < digits; j++) {
        const v8 a = n[j];
        u[BLOCK] = T[BLOCK + j];
        UNROLL for (int k = 0; k < BLOCK; k++) LOW(u[k], a, q[k]);
        UNROLL for (int k = 0; k < BLOCK; k++) HIGH(u[k + 1], a, q[k]);
        T[j] = u[0];
        UNROLL for (int k = 0; k < BLOCK; k++) u[k] = u[k + 1];
    }
    UNROLL for (int k = 0; k < BLOCK; k++) T[digits + k] = u[k];
}

/* out = (T0 + q0 n) / R, (T1 - q0 + q1 n) / R in digits of 52 bits; T0 and T1 have 2 L columns. */
INLINE void reduce_both(v8 *restrict out, v8 *restrict T0, v8 *restrict T1, const modulus *m, const int digits)
{
    const v8 mask = _mm512_set1_epi64(DIGIT_MASK);
    v8 q0[BLOCK], q1[BLOCK];
    for (int at = 0; at < digits; at += BLOCK) {
        reduce_block(T0 + at, q0, m, digits);
        UNROLL for (int k = 0; k < BLOCK; k++) T1[at + k] = SUB(T1[at + k], q0[k]);
        reduce_block(T1 + at, q1, m, digits);
    }
    v8 carry0 = ZERO, carry1 = ZERO;
    for (int j = 0; j < digits; j++) {
        const v8 a = ADD(T0[digits + j], carry0), b = ADD(T1[digits + j], carry1);
        out[j] = _mm512_and_si512(a, mask);
        out[digits + j] = _mm512_and_si512(b, mask);
        carry0 = CARRY(a);
        carry1 = CARRY(b);
    }
}

/* out = (T + q n) / R in digits of 52 bits. */
INLINE void reduce_one(v8 *restrict out, v8 *restrict T, const modulus *m, const int digits)
{
    const v8 mask = _mm512_set1_epi64(DIGIT_MASK);
    v8 q[BLOCK], carry = ZERO;
    for (int at = 0; at < digits; at += BLOCK) reduce_block(T + at, q, m, digits);
    for (int j = 0; j < digits; j++) {
        const v8 t = ADD(T[digits + j], carry);
        out[j] = _mm512_and_si512(t, mask);
        carry = CARRY(t);
    }
}

INLINE void multiply_numbers(v8 *out, const v8 *x, const v8 *y, const modulus *m, const int digits)
{
    v8 T0[2 * MOST_DIGITS], T1[2 * MOST_DIGITS];
    halves sums[4];
    const factor x0 = {x, sums}, x1 = {x + digits, sums + 1}, y0 = {y, sums + 2}, y1 = {y + digits, sums + 3};
    if (KARATSUBA(digits)) {
        add_halves(sums, x0.digits, digits / 2);
        add_halves(sums + 1, x1.digits, digits / 2);
        add_halves(sums + 2, y0.digits, digits / 2);
        add_halves(sums + 3, y1.digits, digits / 2);
    }
    multiply(T0, x0, y0, NOTHING, NOTHING, digits);
    multiply(T1, x0, y1, x1, y0, digits);
    reduce_both(out, T0, T1, m, digits);
}

/* x y0 for a number y0 without second part: two half-size products instead of three. */
INLINE void multiply_by_first(v8 *out, const v8 *x, const v8 *y, const modulus *m, const int digits)
{
    v8 T0[2 * MOST_DIGITS], T1[2 * MOST_DIGITS];
    halves sums[3];
    const factor x0 = {x, sums}, x1 = {x + digits, sums + 1}, y0 = {y, sums + 2};
    if (KARATSUBA(digits)) {
        add_halves(sums, x0.digits, digits / 2);
        add_halves(sums + 1, x1.digits, digits / 2);
        add_halves(sums + 2, y0.digits, digits / 2);
    }
    multiply(T0, x0, y0, NOTHING, NOTHING, digits);
    multiply(T1, x1, y0, NOTHING, NOTHING, digits);
    reduce_both(out, T0, T1, m, digits);
}

/* x (1 + u n) for the columns of a sum u of at most most_summed parts u R below 2 n: times R + u R n. */
INLINE void multiply_by_sum(v8 *x, const v8 *sum, const modulus *m, const int digits)
{
    const v8 mask = _mm512_set1_epi64(DIGIT_MASK);
    v8 y[2 * MOST_DIGITS], carry = ZERO;
    for (int j = 0; j < digits; j++) {
        const v8 t = ADD(ADD(m->one[digits + j], sum[j]), carry);
        y[j] = m->one[j];
        y[digits + j] = _mm512_and_si512(t, mask);
        carry = CARRY(t);
    }
    multiply_numbers(x, x, y, m, digits);
}

/* x as a logarithmic number, x0 and (x1 / x0) R modulo n, given its inverse z: x1 z0 / R, since z0 = R^2 / x0. */
INLINE void take_logarithm(v8 *out, const v8 *x, const v8 *z, const modulus *m, const int digits)
{
    v8 T[2 * MOST_DIGITS];
    multiply_digits(T, x + digits, z, digits, 0);
    reduce_one(out + digits, T, m, digits);
    memcpy(out, x, sizeof(v8) * digits);
}

/* x - amount where x >= amount, digit by digit without a branch; returns where. */
INLINE __mmask8 subtract_once(v8 *restrict x, const v8 *amount, const int digits)
{
    const v8 mask = _mm512_set1_epi64(DIGIT_MASK);
    v8 less[MOST_DIGITS], borrow = ZERO;
    for (int j = 0; j < digits; j++) {
        const v8 t = ADD(SUB(x[j], amount[j]), borrow);
        less[j] = _mm512_and_si512(t, mask);
        borrow = CARRY(t);
    }
    const __mmask8 at_least = _mm512_testn_epi64_mask(borrow, borrow);
    for (int j = 0; j < digits; j++) x[j] = _mm512_mask_mov_epi64(x[j], at_least, less[j]);
    return at_least;
}

/* x (1 + k n) for k < R: k R modulo n by R^2 modulo n, times x0, added to x1. Where that
 * makes 2 n or more, 2 n go off, so that what came in below 8 n stays there. */
INLINE void add_plaintext(v8 *x, const v8 *k, const modulus *m, const int digits)
{
    const v8 mask = _mm512_set1_epi64(DIGIT_MASK);
    v8 T[2 * MOST_DIGITS], y[MOST_DIGITS], carry = ZERO;
    multiply_digits(T, k, m->r_squared, digits, 0);
    reduce_one(y, T, m, digits);
    multiply_digits(T, x, y, digits, 0);
    reduce_one(y, T, m, digits);
    for (int j = 0; j < digits; j++) {
        const v8 t = ADD(ADD(x[digits + j], y[j]), carry);
        x[digits + j] = _mm512_and_si512(t, mask);
        carry = CARRY(t);
    }
    subtract_once(x + digits, m->n_twice, digits);
}

INLINE void square_number(v8 *out, const v8 *x, const modulus *m, const int digits)
{
    v8 T0[2 * MOST_DIGITS], T1[2 * MOST_DIGITS];
    halves sums[2];
    const factor x0 = {x, sums}, x1 = {x + digits, sums + 1};
    if (KARATSUBA(digits)) {
        add_halves(sums, x0.digits, digits / 2);
        add_halves(sums + 1, x1.digits, digits / 2);
    }
    square(T0, x0, digits);
    multiply(T1, x0, x1, NOTHING, NOTHING, digits);
    for (int k = 0; k < 2 * digits; k++) T1[k] = ADD(T1[k], T1[k]);
    reduce_both(out, T0, T1, m, digits);
}

/* ---- In and out of Montgomery form ---- */

INLINE void add_one_where(v8 *restrict x, __mmask8 where, const int digits)
{
    const v8 mask = _mm512_set1_epi64(DIGIT_MASK);
    v8 carry = add_where(ZERO, where, _mm512_set1_epi64(1));
    for (int j = 0; j < digits; j++) {
        const v8 t = ADD(x[j], carry);
        x[j] = _mm512_and_si512(t, mask);
        carry = CARRY(t);
    }
}

/* The one pair (x0, x1) below n that a number stands for: x / R has parts of at most n and n, and x0 = n is 0 and one
 * more of x1. */
INLINE void leave_number(v8 *restrict out, const v8 *x, const modulus *m, const int digits)
{
    v8 T0[2 * MOST_DIGITS], T1[2 * MOST_DIGITS];
    for (int j = 0; j < digits; j++) T0[digits + j] = T1[digits + j] = ZERO;
    memcpy(T0, x, sizeof(v8) * digits);
    memcpy(T1, x + digits, sizeof(v8) * digits);
    reduce_both(out, T0, T1, m, digits);
    add_one_where(out + digits, subtract_once(out, m->n, digits), digits);
    subtract_once(out + digits, m->n, digits);
}

/* x0 + x1 n as one integer of 2 L digits. */
INLINE void whole_number(v8 *restrict out, const v8 *x, const modulus *m, const int digits)
{
    const v8 mask = _mm512_set1_epi64(DIGIT_MASK);
    v8 T[2 * MOST_DIGITS], carry = ZERO;
    multiply_digits(T, x + digits, m->n, digits, 0);
    for (int j = 0; j < 2 * digits; j++) {
        const v8 t = ADD(j < digits ? ADD(T[j], x[j]) : T[j], carry);
        out[j] = _mm512_and_si512(t, mask);
        carry = CARRY(t);
    }
}

/* sum_k piece_k c_k / R for integers piece_k < R and numbers c_k with parts below n. */
INLINE void enter_number(v8 *restrict out, const v8 *pieces, int count, const v8 *constants, const modulus *m,
                         const int digits)
{
    v8 T0[2 * MOST_DIGITS], T1[2 * MOST_DIGITS];
        multiply_digits(T0, pieces, constants, digits, 0);
    multiply_digits(T1, pieces, constants + digits, digits, 0);
    for (int k = 1; k < count; k++) {
        multiply_digits(T0, pieces + k * digits, constants + 2 * k * digits, digits, 1);
        multiply_digits(T1, pieces + k * digits, constants + 2 * k * digits + digits, digits, 1);
    }
    reduce_both(out, T0, T1, m, digits);
}

/* ---- One instance of all this per length ---- */

typedef struct {
    void (*multiply)(v8 *, const v8 *, const v8 *, const modulus *);
    void (*multiply_by_first)(v8 *, const v8 *, const v8 *, const modulus *);
    void (*multiply_by_sum)(v8 *, const v8 *, const modulus *);
    void (*take_logarithm)(v8 *, const v8 *, const v8 *, const modulus *);
    void (*add_plaintext)(v8 *, const v8 *, const modulus *);
    void (*square)(v8 *, const v8 *, const modulus *);
    void (*enter)(v8 *, const v8 *, int, const v8 *, const modulus *);
    void (*leave)(v8 *, const v8 *, const modulus *);
    void (*whole)(v8 *, const v8 *, const modulus *);
} arithmetic;

#define LENGTH(L)                                                                                                     \
    TARGET static void multiply_##L(v8 *o, const v8 *x, const v8 *y, const modulus *m)                               \
    { multiply_numbers(o, x, y, m, L); }                                                                             \
    TARGET static void multiply_by_first_##L(v8 *o, const v8 *x, const v8 *y, const modulus *m)                      \
    { multiply_by_first(o, x, y, m, L); }                                                                            \
    TARGET static void multiply_by_sum_##L(v8 *x, const v8 *sum, const modulus *m) { multiply_by_sum(x, sum, m, L); } \
    TARGET static void take_logarithm_##L(v8 *o, const v8 *x, const v8 *z, const modulus *m)                         \
    { take_logarithm(o, x, z, m, L); }                                                                               \
    TARGET static void add_plaintext_##L(v8 *x, const v8 *k, const modulus *m) { add_plaintext(x, k, m, L); }        \
    TARGET static void square_##L(v8 *o, const v8 *x, const modulus *m) { square_number(o, x, m, L); }               \
    TARGET static void enter_##L(v8 *o, const v8 *p, int k, const v8 *c, const modulus *m)                           \
    { enter_number(o, p, k, c, m, L); }                                                                              \
    TARGET static void leave_##L(v8 *o, const v8 *x, const modulus *m) { leave_number(o, x, m, L); }                 \
    TARGET static void whole_##L(v8 *o, const v8 *x, const modulus *m) { whole_number(o, x, m, L); }                 \
    static const arithmetic length_##L = {multiply_##L,       multiply_by_first_##L, multiply_by_sum_##L,            \
                                          take_logarithm_##L, add_plaintext_##L,     square_##L,                     \
                                          enter_##L,          leave_##L,             whole_##L};
LENGTH(20)
LENGTH(30)
LENGTH(40)
LENGTH(60)
LENGTH(80)

/* The caller's modulus: L, -1 / n modulo 2^52, the most u's that may be added up, the L digits of n, the row of one
 * and R^2 modulo n. */
TARGET static const arithmetic *open_modulus(modulus *m, const uint64_t *context)
{
    const uint64_t digits = context[0];
    const arithmetic *const known = digits == 20   ? &length_20
                                    : digits == 30 ? &length_30
                                    : digits == 40 ? &length_40
                                    : digits == 60 ? &length_60
                                    : digits == 80 ? &length_80
                                                   : NULL;
    if (!known || context[2] < 1 || context[2] > 1 << 10) return NULL;
    m->digits = (int)digits;
    m->n_inverse = _mm512_set1_epi64((long long)context[1]);
    m->most_summed = (int64_t)context[2];
    for (int j = 0; j < m->digits; j++) {
        const uint64_t carry = j ? context[2 + j] >> (DIGIT_BITS - 1) : 0;
        m->n[j] = _mm512_set1_epi64((long long)context[3 + j]);
        m->n_twice[j] = _mm512_set1_epi64((long long)((context[3 + j] << 1 & DIGIT_MASK) | carry));
    }
    m->one_row = context + 3 + digits;
    for (int j = 0; j < 2 * m->digits; j++) m->one[j] = _mm512_set1_epi64((long long)m->one_row[j]);
    const uint64_t *const r_squared = m->one_row + 2 * digits;
    for (int j = 0; j < m->digits; j++) m->r_squared[j] = _mm512_set1_epi64((long long)r_squared[j]);
    return known;
}

/* ---- Rows of words to vectors of digits and back ---- */

/* Transpose 8 x 8 words. */
INLINE void transpose(v8 *r)
{
    const v8 t0 = _mm512_unpacklo_epi64(r[0], r[1]), t1 = _mm512_unpackhi_epi64(r[0], r[1]);
    const v8 t2 = _mm512_unpacklo_epi64(r[2], r[3]), t3 = _mm512_unpackhi_epi64(r[2], r[3]);
    const v8 t4 = _mm512_unpacklo_epi64(r[4], r[5]), t5 = _mm512_unpackhi_epi64(r[4], r[5]);
    const v8 t6 = _mm512_unpacklo_epi64(r[6], r[7]), t7 = _mm512_unpackhi_epi64(r[6], r[7]);
    const v8 a0 = _mm512_shuffle_i64x2(t0, t2, 0x88), a1 = _mm512_shuffle_i64x2(t1, t3, 0x88);
    const v8 a2 = _mm512_shuffle_i64x2(t0, t2, 0xdd), a3 = _mm512_shuffle_i64x2(t1, t3, 0xdd);
    const v8 a4 = _mm512_shuffle_i64x2(t4, t6, 0x88), a5 = _mm512_shuffle_i64x2(t5, t7, 0x88);
    const v8 a6 = _mm512_shuffle_i64x2(t4, t6, 0xdd), a7 = _mm512_shuffle_i64x2(t5, t7, 0xdd);
    r[0] = _mm512_shuffle_i64x2(a0, a4, 0x88);
    r[1] = _mm512_shuffle_i64x2(a1, a5, 0x88);
    r[2] = _mm512_shuffle_i64x2(a2, a6, 0x88);
    r[3] = _mm512_shuffle_i64x2(a3, a7, 0x88);
    r[4] = _mm512_shuffle_i64x2(a0, a4, 0xdd);
    r[5] = _mm512_shuffle_i64x2(a1, a5, 0xdd);
    r[6] = _mm512_shuffle_i64x2(a2, a6, 0xdd);
    r[7] = _mm512_shuffle_i64x2(a3, a7, 0xdd);
}

/* x[0 .. width) = the words of eight rows; the mask is for widths that are no multiple of eight. */
INLINE void load_rows(v8 *restrict x, const uint64_t *const *row, int width)
{
    for (int at = 0; at < width; at += 8) {
        const int some = width - at < 8 ? width - at : 8;
        v8 r[8];
        UNROLL for (int k = 0; k < 8; k++) r[k] = _mm512_maskz_loadu_epi64((__mmask8)((1 << some) - 1), row[k] + at);
        transpose(r);
        for (int k = 0; k < some; k++) x[at + k] = r[k];
    }
}

/* The first `lanes` of the rows that x holds. */
INLINE void store_rows(uint64_t *const *row, const v8 *x, int lanes, int width)
{
    for (int at = 0; at < width; at += 8) {
        const int some = width - at < 8 ? width - at : 8;
        v8 r[8];
        UNROLL for (int k = 0; k < 8; k++) r[k] = k < some ? x[at + k] : ZERO;
        transpose(r);
        for (int k = 0; k < lanes; k++) _mm512_mask_storeu_epi64(row[k] + at, (__mmask8)((1 << some) - 1), r[k]);
    }
}

INLINE void fetch_row(const uint64_t *row, int width)
{
    for (int at = 0; at < width; at += 8) _mm_prefetch((const char *)(row + at), _MM_HINT_T0);
}

INLINE int lanes_from(int64_t at, int64_t count) { return count - at < LANES ? (int)(count - at) : LANES; }

/* Rows at .. at + 8 of consecutive ones; the last is taken again for lanes past the end. */
INLINE void load_consecutive(v8 *restrict x, const uint64_t *rows, int64_t at, int lanes, int width)
{
    const uint64_t *row[LANES];
    for (int k = 0; k < LANES; k++) row[k] = rows + (size_t)(at + (k < lanes ? k : lanes - 1)) * (size_t)width;
    load_rows(x, row, width);
}

INLINE void store_consecutive(uint64_t *rows, int64_t at, const v8 *x, int lanes, int width)
{
    uint64_t *row[LANES];
    for (int k = 0; k < LANES; k++) row[k] = rows + (size_t)(at + (k < lanes ? k : lanes - 1)) * (size_t)width;
    store_rows(row, x, lanes, width);
}

static int all_below(const int64_t *idx, int64_t count, int64_t limit)
{
    int below = 1;
    for (int64_t i = 0; i < count; i++) below &= idx[i] >= 0 && idx[i] < limit;
    return below;
}

/* Scratch memory held numbers from which a secret could be worked out: wipe it. */
static void wipe_and_free(void *memory, size_t bytes)
{
    volatile char *byte = memory;
    for (size_t i = 0; i < bytes; i++) byte[i] = 0;
    free(memory);
}

/* ---- What Python calls ---- */

int vfl_ifma_supported(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512ifma") &&
           __builtin_cpu_supports("avx512vbmi");
}

/* out[i] = a[ai[i]] b[bi[i]] for i < count. */
TARGET int vfl_ifma_multiply_pairs(const uint64_t *context, uint64_t *out, const uint64_t *a, int64_t a_count,
                                   const int64_t *ai, const uint64_t *b, int64_t b_count, const int64_t *bi,
                                   int64_t count)
{
    modulus m;
    const arithmetic *const by = open_modulus(&m, context);
    if (!by || count < 0 || !all_below(ai, count, a_count) || !all_below(bi, count, b_count)) return REFUSED;
    const int width = 2 * m.digits;
    v8 x[2 * MOST_DIGITS], y[2 * MOST_DIGITS];
    for (int64_t i = 0; i < count; i += LANES) {
        const int lanes = lanes_from(i, count);
        const uint64_t *left[LANES], *right[LANES];
        for (int k = 0; k < LANES; k++) {
            left[k] = a + (size_t)ai[i + (k < lanes ? k : 0)] * (size_t)width;
            right[k] = b + (size_t)bi[i + (k < lanes ? k : 0)] * (size_t)width;
        }
        load_rows(x, left, width);
        load_rows(y, right, width);
        by->multiply(x, x, y, &m);
        store_consecutive(out, i, x, lanes, width);
    }
    return DONE;
}

/* out[to[s]] = the product of src[idx[from[s]]] .. src[idx[from[s] + length[s] - 1]], one if length[s] is zero; src is
 * logarithmic if `logs`. Eight segments go side by side: neighbours should be of like length, and those that end early
 * are multiplied by one. `to` should not name a row twice. */
TARGET int vfl_ifma_segment_products(const uint64_t *context, uint64_t *out, int64_t out_count, const uint64_t *src,
                                     int64_t src_count, int64_t logs, const int64_t *idx, int64_t idx_count,
                                     const int64_t *from, const int64_t *length, const int64_t *to, int64_t segments)
{
    modulus m;
    const arithmetic *const by = open_modulus(&m, context);
    if (!by || segments < 0 || !all_below(idx, idx_count, src_count) || !all_below(to, segments, out_count))
        return REFUSED;
    for (int64_t s = 0; s < segments; s++)
        if (from[s] < 0 || length[s] < 0 || from[s] > idx_count || length[s] > idx_count - from[s]) return REFUSED;
    const int width = 2 * m.digits;
    v8 x[2 * MOST_DIGITS], y[2 * MOST_DIGITS], sum[MOST_DIGITS];
    for (int64_t s = 0; s < segments; s += LANES) {
        const int lanes = lanes_from(s, segments);
        int64_t longest = 1;
        for (int k = 0; k < lanes; k++)
            if (length[s + k] > longest) longest = length[s + k];
        for (int64_t t = 0; t < longest; t++) {
            const uint64_t *row[LANES];
            for (int k = 0; k < LANES; k++)
                row[k] = k < lanes && t < length[s + k] ? src + (size_t)idx[from[s + k] + t] * (size_t)width
                                                        : m.one_row;
            load_rows(t ? y : x, row, width);
            for (int k = 0; k < lanes; k++) /* rows come from all over the memory: fetch the next while multiplying */
                if (t + 1 < length[s + k]) fetch_row(src + (size_t)idx[from[s + k] + t + 1] * (size_t)width, width);
            if (!logs) {
                if (t) by->multiply(x, x, y, &m);
                continue;
            }
            if (t) by->multiply_by_first(x, x, y, &m);
            const int renewed = t % m.most_summed == 0;
            for (int j = 0; j < m.digits; j++) {
                const v8 u = t ? y[m.digits + j] : x[m.digits + j];
                sum[j] = renewed ? u : ADD(sum[j], u);
                if (!t) x[m.digits + j] = ZERO;
            }
            if (t + 1 == longest || (t + 1) % m.most_summed == 0) by->multiply_by_sum(x, sum, &m);
        }
        uint64_t *row[LANES];
        for (int k = 0; k < LANES; k++) row[k] = out + (size_t)to[s + (k < lanes ? k : 0)] * (size_t)width;
        store_rows(row, x, lanes, width);
    }
    return DONE;
}

/* out[i] = a[i] (1 + k[i] n); k[i] < R in L digits. */
TARGET int vfl_ifma_add_plaintexts(const uint64_t *context, uint64_t *out, const uint64_t *a, const uint64_t *k,
                                   int64_t count)
{
    modulus m;
    const arithmetic *const by = open_modulus(&m, context);
    if (!by || count < 0) return REFUSED;
    const int width = 2 * m.digits;
    v8 x[2 * MOST_DIGITS], plaintext[MOST_DIGITS];
    for (int64_t i = 0; i < count; i += LANES) {
        const int lanes = lanes_from(i, count);
        load_consecutive(x, a, i, lanes, width);
        load_consecutive(plaintext, k, i, lanes, m.digits);
        by->add_plaintext(x, plaintext, &m);
        store_consecutive(out, i, x, lanes, width);
    }
    return DONE;
}

/* out[i] = a[i] as a logarithmic number, given inverses: a[i] inverses[i] = 1. */
TARGET int vfl_ifma_take_logarithms(const uint64_t *context, uint64_t *out, const uint64_t *a,
                                    const uint64_t *inverses, int64_t count)
{
    modulus m;
    const arithmetic *const by = open_modulus(&m, context);
    if (!by || count < 0) return REFUSED;
    const int width = 2 * m.digits;
    v8 x[2 * MOST_DIGITS], z[2 * MOST_DIGITS], y[2 * MOST_DIGITS];
    for (int64_t i = 0; i < count; i += LANES) {
        const int lanes = lanes_from(i, count);
        load_consecutive(x, a, i, lanes, width);
        load_consecutive(z, inverses, i, lanes, width);
        by->take_logarithm(y, x, z, &m);
        store_consecutive(out, i, y, lanes, width);
    }
    return DONE;
}

/* to[g][0] = the digit that 64 numbers take from one row of a window's table; number 8 g + l in lane l of vector g.
 * The row holds byte 0 of its 256 entries, then byte 1, and so on: a byte of 128 entries is one permutation of two
 * vectors, so that every entry is read for every number, whatever it chooses. `choice` is ordered as the bytes come
 * out of the interleaving: byte 16 q + 2 g + b chooses for number 8 g + 2 q + b. */
INLINE void look_up(v8 *restrict to, int stride, const uint8_t *row, const v8 choice)
{
    const __mmask64 upper = _mm512_movepi8_mask(choice);
    v8 byte[8], pair[8], four[8];
    UNROLL for (int k = 0; k < ENTRY_BYTES; k++) {
        const uint8_t *const plane = row + ENTRIES * k;
        const v8 low = _mm512_permutex2var_epi8(_mm512_loadu_si512(plane), choice, _mm512_loadu_si512(plane + 64));
        const v8 high =
            _mm512_permutex2var_epi8(_mm512_loadu_si512(plane + 128), choice, _mm512_loadu_si512(plane + 192));
        byte[k] = _mm512_mask_mov_epi8(low, upper, high);
    }
    byte[7] = ZERO;
    UNROLL for (int k = 0; k < 4; k++) {
        pair[k] = _mm512_unpacklo_epi8(byte[2 * k], byte[2 * k + 1]);
        pair[k + 4] = _mm512_unpackhi_epi8(byte[2 * k], byte[2 * k + 1]);
    }
    UNROLL for (int k = 0; k < 4; k++) { /* pair 0, 1: bytes 0 to 3 of numbers 0 to 7 of a lane; 4, 5: of 8 to 15 */
        const int from = k / 2 * 4 + k % 2 * 2;
        four[2 * k] = _mm512_unpacklo_epi16(pair[from], pair[from + 1]);
        four[2 * k + 1] = _mm512_unpackhi_epi16(pair[from], pair[from + 1]);
    }
    UNROLL for (int k = 0; k < 4; k++) {
        const int from = k / 2 * 4 + k % 2;
        to[2 * k * stride] = _mm512_unpacklo_epi32(four[from], four[from + 2]);
        to[(2 * k + 1) * stride] = _mm512_unpackhi_epi32(four[from], four[from + 2]);
    }
}

/* The digits of 64 numbers in one window, ordered for `look_up`; past the end the last number's. */
INLINE v8 choices(const uint8_t *digits, int64_t start, int64_t count, int64_t windows, int64_t window)
{
    uint8_t choice[64];
    for (int at = 0; at < 64; at++) {
        const int64_t i = start + at % 16 / 2 * 8 + at / 16 * 2 + at % 2;
        choice[at] = digits[(i < count ? i : count - 1) * windows + window];
    }
    return _mm512_loadu_si512(choice);
}

/* out[i] = prod_w table[w][digits[i][w]]: powers of one base with secret exponents, from a table of 256 logarithmic
 * entries per window whose 2 L digits are stored as `look_up` wants them. Many numbers go through a row before the
 * next, so that it stays in the cache while it is read for each of them. */
TARGET int vfl_ifma_fixed_base(const uint64_t *context, uint64_t *out, const uint8_t *table, int64_t windows,
                               const uint8_t *digits, int64_t count)
{
    enum { VECTORS = 16, AT_ONCE = VECTORS * LANES };
    modulus m;
    const arithmetic *const by = open_modulus(&m, context);
    if (!by || count < 0 || windows < 1) return REFUSED;
    const int width = 2 * m.digits, half = m.digits;
    const size_t bytes = sizeof(v8) * VECTORS * (size_t)(2 * width + half);
    v8 *const memory = aligned_alloc(sizeof(v8), bytes);
    if (!memory) return NO_MEMORY;
    v8 *const x = memory, *const y = x + VECTORS * width, *const sum = y + VECTORS * width;
    for (int64_t start = 0; start < count; start += AT_ONCE) {
        const int64_t here = count - start < AT_ONCE ? count - start : AT_ONCE;
        const int vectors = (int)((here + LANES - 1) / LANES);
        memset(sum, 0, sizeof(v8) * VECTORS * (size_t)half);
        for (int64_t w = 0; w < windows; w++) {
            const v8 first = choices(digits, start, count, windows, w);
            const v8 second = choices(digits, start + 64, count, windows, w);
            v8 *const into = w ? y : x;
            for (int j = 0; j < width; j++) {
                const uint8_t *const row = table + ((size_t)w * (size_t)width + (size_t)j) * ENTRY_BYTES * ENTRIES;
                look_up(into + j, width, row, first);
                if (vectors > 8) look_up(into + 8 * width + j, width, row, second);
            }
            const int full = (w + 1) % m.most_summed == 0 || w + 1 == windows;
            for (int g = 0; g < vectors; g++) {
                v8 *const xg = x + g * width, *const ug = into + g * width + half, *const sg = sum + g * half;
                for (int j = 0; j < half; j++) {
                    sg[j] = ADD(sg[j], ug[j]);
                    ug[j] = ZERO;
                }
                if (w) by->multiply_by_first(xg, xg, y + g * width, &m);
                if (full) by->multiply_by_sum(xg, sg, &m);
                if (full) memset(sg, 0, sizeof(v8) * (size_t)half);
            }
        }
        for (int g = 0; g < vectors; g++)
            store_consecutive(out, start + g * LANES, x + g * width, lanes_from(start + g * LANES, count), width);
    }
    wipe_and_free(memory, bytes);
    return DONE;
}

/* The digits of eight numbers in one window; past the end the last number's. */
INLINE v8 window_digits(const uint8_t *digits, int64_t at, int64_t count, int64_t windows, int64_t window)
{
    uint64_t d[LANES];
    for (int k = 0; k < LANES; k++) d[k] = digits[(at + k < count ? at + k : count - 1) * windows + window];
    return _mm512_loadu_si512(d);
}

/* out[i] = a[i]^e_i by windows of `bits` bits, the highest first; e_i's digits are digits[i], or digits[0] for all if
 * `shared`. Every window costs its squarings, one look-up through all 2^bits powers and one product, zero or not. */
TARGET int vfl_ifma_power(const uint64_t *context, uint64_t *out, const uint64_t *a, int64_t count,
                          const uint8_t *digits, int64_t windows, int64_t bits, int64_t shared)
{
    enum { ROWS = 20 };
    modulus m;
    const arithmetic *const by = open_modulus(&m, context);
    if (!by || count < 0 || windows < 1 || bits < 1 || bits > 5) return REFUSED;
    const int width = 2 * m.digits, entries = 1 << bits;
    const size_t bytes = sizeof(v8) * (size_t)(entries + 2) * (size_t)width;
    v8 *const table = aligned_alloc(sizeof(v8), bytes);
    if (!table) return NO_MEMORY;
    v8 *const x = table + entries * width, *const y = x + width;
    for (int64_t i = 0; i < count; i += LANES) {
        const int lanes = lanes_from(i, count);
        memcpy(table, m.one, sizeof(v8) * (size_t)width);
        load_consecutive(table + width, a, i, lanes, width);
        for (int e = 2; e < entries; e++) {
            if (e % 2) by->multiply(table + e * width, table + (e - 1) * width, table + width, &m);
            else by->square(table + e * width, table + e / 2 * width, &m);
        }
        for (int64_t w = 0; w < windows; w++) {
            const v8 d = shared ? _mm512_set1_epi64(digits[w]) : window_digits(digits, i, count, windows, w);
            v8 *const into = w ? y : x;
            for (int64_t b = 0; w && b < bits; b++) by->square(x, x, &m);
            for (int at = 0; at < width; at += ROWS) {
                v8 found[ROWS];
                UNROLL for (int k = 0; k < ROWS; k++) found[k] = ZERO;
                for (int e = 0; e < entries; e++) {
                    const __mmask8 here = _mm512_cmpeq_epi64_mask(d, _mm512_set1_epi64(e));
                    UNROLL for (int k = 0; k < ROWS; k++)
                        found[k] = _mm512_mask_mov_epi64(found[k], here, table[e * width + at + k]);
                }
                UNROLL for (int k = 0; k < ROWS; k++) into[at + k] = found[k];
            }
            if (w) by->multiply(x, x, y, &m);
        }
        store_consecutive(out, i, x, lanes, width);
    }
    wipe_and_free(table, bytes);
    return DONE;
}

/* out[i] = a[i]^(2^times). */
TARGET int vfl_ifma_square(const uint64_t *context, uint64_t *out, const uint64_t *a, int64_t count, int64_t times)
{
    modulus m;
    const arithmetic *const by = open_modulus(&m, context);
    if (!by || count < 0 || times < 0) return REFUSED;
    const int width = 2 * m.digits;
    v8 x[2 * MOST_DIGITS];
    for (int64_t i = 0; i < count; i += LANES) {
        const int lanes = lanes_from(i, count);
        load_consecutive(x, a, i, lanes, width);
        for (int64_t t = 0; t < times; t++) by->square(x, x, &m);
        store_consecutive(out, i, x, lanes, width);
    }
    return DONE;
}

/* out[i] = sum_k pieces[i][k] constants[k] / R: integers cut into `count_pieces` pieces of L digits come in by the
 * constants R^(k + 2) mod n^2, and others combine what they stand for. */
TARGET int vfl_ifma_enter(const uint64_t *context, uint64_t *out, const uint64_t *pieces, int64_t count,
                          const uint64_t *constants, int64_t count_pieces)
{
    enum { MOST_PIECES = 6 };
    modulus m;
    const arithmetic *const by = open_modulus(&m, context);
    if (!by || count < 0 || count_pieces < 1 || count_pieces > MOST_PIECES) return REFUSED;
    const int width = 2 * m.digits, long_width = (int)count_pieces * m.digits;
    v8 c[2 * MOST_DIGITS * MOST_PIECES], x[MOST_DIGITS * MOST_PIECES + 8], number[2 * MOST_DIGITS];
    for (int j = 0; j < (int)count_pieces * width; j++) c[j] = _mm512_set1_epi64((long long)constants[j]);
    for (int64_t i = 0; i < count; i += LANES) {
        const int lanes = lanes_from(i, count);
        load_consecutive(x, pieces, i, lanes, long_width);
        by->enter(number, x, (int)count_pieces, c, &m);
        store_consecutive(out, i, number, lanes, width);
    }
    return DONE;
}

/* out[i] = the digits of a[i] out of Montgomery form: x0 + x1 n in 2 L digits if `whole`, else x0 and x1. */
TARGET int vfl_ifma_leave(const uint64_t *context, uint64_t *out, const uint64_t *a, int64_t count, int64_t whole)
{
    modulus m;
    const arithmetic *const by = open_modulus(&m, context);
    if (!by || count < 0) return REFUSED;
    const int width = 2 * m.digits;
    v8 x[2 * MOST_DIGITS], pair[2 * MOST_DIGITS];
    for (int64_t i = 0; i < count; i += LANES) {
        const int lanes = lanes_from(i, count);
        load_consecutive(x, a, i, lanes, width);
        by->leave(pair, x, &m);
        if (whole) by->whole(x, pair, &m);
        store_consecutive(out, i, whole ? x : pair, lanes, width);
    }
    return DONE;
}

/* Run 24 `rounds` multiply-adds that do not wait for each other, and nothing else: the processor's limit. */
TARGET int64_t vfl_ifma_ceiling(int64_t rounds)
{
    v8 sums[12];
    const v8 x = _mm512_set1_epi64(0x123456789abcd), y = _mm512_set1_epi64(0xfedcba987654);
    UNROLL for (int k = 0; k < 12; k++) sums[k] = _mm512_set1_epi64(k);
    for (int64_t i = 0; i < rounds; i++) {
        UNROLL for (int k = 0; k < 12; k++) LOW(sums[k], x, y);
        UNROLL for (int k = 0; k < 12; k++) HIGH(sums[k], x, y);
        __asm__ volatile("" : "+v"(sums[0]));
    }
    for (int k = 1; k < 12; k++) sums[0] = ADD(sums[0], sums[k]);
    return _mm512_reduce_add_epi64(sums[0]);
}

#else /* another processor: there is nothing here but the answer that there is nothing */

int vfl_ifma_supported(void) { return 0; }
int vfl_ifma_multiply_pairs(void) { return REFUSED; }
int vfl_ifma_segment_products(void) { return REFUSED; }
int vfl_ifma_take_logarithms(void) { return REFUSED; }
int vfl_ifma_add_plaintexts(void) { return REFUSED; }
int vfl_ifma_fixed_base(void) { return REFUSED; }
int vfl_ifma_power(void) { return REFUSED; }
int vfl_ifma_square(void) { return REFUSED; }
int vfl_ifma_enter(void) { return REFUSED; }
int vfl_ifma_leave(void) { return REFUSED; }
int64_t vfl_ifma_ceiling(void) { return 0; }

#endif

/* ---- Rows of bytes, big-endian, to rows of digits and back ---- */

/* Eight bytes, the last one lowest. */
static inline uint64_t load_big_endian(const uint8_t *from)
{
    uint64_t word = 0;
    for (int k = 0; k < 8; k++) word = word << 8 | from[k];
    return word;
}

/* out[i][j] = bits 52 j .. 52 j + 51 of the number in row i; there must be digits for all bytes. */
int vfl_ifma_from_bytes(uint64_t *out, int64_t digits, const uint8_t *in, int64_t width, int64_t count)
{
    if (count < 0 || width < 0 || digits < 0 || digits % 2 || width / 13 > digits / 2 ||
        (width / 13 == digits / 2 && width % 13))
        return REFUSED; /* two digits are thirteen bytes */
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *const row = in + i * width;
        for (int64_t j = 0; j < digits; j++) {
            const int64_t byte = 52 * j / 8, shift = 52 * j % 8; /* 0 or 4, so that eight bytes hold all 52 bits */
            uint64_t word = 0;
            if (byte + 8 <= width) word = load_big_endian(row + width - byte - 8);
            else
                for (int64_t at = 0; at < width - byte; at++) word = word << 8 | row[at];
            out[i * digits + j] = word >> shift & ((UINT64_C(1) << 52) - 1);
        }
    }
    return DONE;
}

/* Row i = the number of the digits in[i], as far as it fits into `width` bytes; two digits are thirteen bytes. */
int vfl_ifma_to_bytes(uint8_t *out, int64_t width, const uint64_t *in, int64_t digits, int64_t count)
{
    enum { PAIR = 13 };
    if (count < 0 || width < 0 || digits < 0 || digits % 2) return REFUSED;
    for (int64_t i = 0; i < count; i++) {
        uint8_t *left = out + i * width + width; /* bytes are written from the right to here */
        int64_t rest = width;
        for (int64_t j = 0; j < digits && rest; j += 2) {
            const uint64_t first = in[i * digits + j], second = in[i * digits + j + 1];
            const uint64_t low = first | second << 52, high = second >> 12;
            uint8_t bytes[PAIR];
            for (int k = 0; k < 8; k++) bytes[PAIR - 1 - k] = (uint8_t)(low >> 8 * k);
            for (int k = 0; k < 5; k++) bytes[PAIR - 9 - k] = (uint8_t)(high >> 8 * k);
            const int64_t taken = rest < PAIR ? rest : PAIR;
            left -= taken;
            rest -= taken;
            if (taken == PAIR) memcpy(left, bytes, PAIR);
            else memcpy(left, bytes + PAIR - taken, (size_t)taken);
        }
        memset(out + i * width, 0, (size_t)rest);
    }
    return DONE;
}
