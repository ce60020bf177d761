/* The arithmetic of one decoder layer on a CPU, over a mixed batch of tokens.
 *
 * Written for skinny inputs (1 to some hundred tokens): weights are streamed once through all
 * tokens of the step, sixteen outputs (one panel) at a time, with the sums of up to sixteen tokens
 * kept in registers. An adapter's factors are packed the same way and go through the same
 * products, on the slice of the tokens that are its own. Sums are float32 whatever the weights
 * are.
 *
 * Every function runs in all threads of a team at once; they meet where a phase ends whose results
 * others read. Vectors are GCC's, so that any CPU runs this; instructions that make the inner
 * product faster are used where the compiler says that they are there.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "team.h"

#define LANES 16 /* outputs of a panel, keys of a block */
#define MAX_ROWS 12 /* tokens whose sums for two panels fit into registers */
#define HOT_PANELS 4 /* whose sums of some hundred tokens stay in a near cache */
#define MAX_GROUP 4 /* queries that are computed over one load of a key head */
/* Bring near what a step reads once: it then leaves without pushing others out of far caches. */
#define FETCH_ONCE(at) __builtin_prefetch(at, 0, 0)
#define INLINE static inline __attribute__((always_inline))

typedef float f32x16 __attribute__((vector_size(64), aligned(4)));
typedef int32_t i32x16 __attribute__((vector_size(64), aligned(4)));
typedef uint32_t u32x16 __attribute__((vector_size(64), aligned(4)));
typedef uint16_t u16x16 __attribute__((vector_size(32), aligned(2)));
typedef uint16_t bf16;

/* How operands are stored. */
enum { F32 = 0, BF16 = 1, INT8 = 2 };

/* A weight matrix [outputs, inputs] in panels of 16 outputs; `scales` only with INT8. */
typedef struct {
    const void *data;
    const float *scales; /* per output: the value of one step */
    const int32_t *sums; /* per output: 128 times the sum of its steps */
    const float *bias; /* per output, or none */
    int32_t outputs;
    int32_t inputs;
    int32_t kind;
} Matrix;

/* What one adapter adds to up to three projections of the same input: `y += (x a') b'`. */
typedef struct {
    Matrix shrink; /* the narrow factors of all parts, one after the other */
    Matrix expand[3];
    int32_t rank_start[3]; /* where a part's share of the narrow product begins */
    int32_t output_start[3];
    int32_t num_parts;
} Update;

/* The tokens of one adapter, and its updates by place in the layer (NULL: none). */
typedef struct {
    const Update *const *updates; /* [layer * NUM_SITES + site] */
    int32_t start;
    int32_t end;
} Segment;

enum { QKV = 0, OUT = 1, GATE_UP = 2, DOWN = 3, NUM_SITES = 4 };

typedef struct {
    const float *attention_norm;
    const float *mlp_norm;
    const float *query_norm; /* per head, or none */
    const float *key_norm;
    Matrix qkv, out, gate_up, down;
    void *keys; /* [blocks, key heads, dim, 16] */
    void *values; /* [blocks, key heads, 16, dim] */
} Layer;

typedef struct {
    int32_t hidden, heads, key_heads, dim, rotary_dim, intermediate, kind;
    float norm_epsilon, scaling;
} Shape;

/* What weights are multiplied with, [tokens, inputs]. */
typedef struct {
    void *packed; /* in the weights' kind */
    void *beside; /* with INT8: the same in the adapters' kind */
    float *scales; /* with INT8: the value of one step of a token */
} Operand;

/* One step. */
typedef struct {
    int32_t num_tokens, num_segments, max_blocks;
    const float *cosines, *sines; /* [positions, rotary_dim] */
    const int32_t *position; /* of a token, in its text */
    const int32_t *table; /* [rows, max_blocks] */
    const int32_t *row; /* of a token, in `table` */
    const int32_t *place; /* of a token, in its row */
    const uint8_t *const *seen; /* of a token: which places from `seen_from` on it sees; or NULL */
    const int32_t *seen_from;
    const Segment *segments;
    float *hidden; /* [tokens, hidden]: the residual stream */
    float *wide; /* [tokens, wide_stride]: queries, keys and values; gate and up */
    float *narrow; /* [tokens, max_rank] */
    int32_t max_rank, wide_stride;
    Operand shared; /* of all threads */
    Operand own; /* of the first thread; each has a part of `own_tokens` tokens */
    int32_t own_tokens, is_decoding; /* every token is the last of a row of its own */
    bf16 *narrow_packed; /* [tokens, max_rank] */
    float *scores; /* [threads, MAX_GROUP, places] */
    int32_t max_places;
    int64_t multiply_adds; /* out: of all products of weights */
    int64_t weight_bytes; /* out: read for them, once a step and segment */
} Step;

/* ---- numbers ------------------------------------------------------------------------------- */

INLINE f32x16 splat(float value) { return value - (f32x16){0}; }

INLINE f32x16 load16(const float *from) { return *(const f32x16 *)from; }

INLINE void store16(float *to, f32x16 value) { *(f32x16 *)to = value; }

INLINE bf16 to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return (bf16)((bits >> 16) | 64);
    return (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* Round n numbers, whole lanes of them. */
INLINE void round_bf16(bf16 *to, const float *from, int n) {
#ifdef __AVX512BF16__
    for (int i = 0; i < n; i += LANES)
        _mm256_storeu_si256((__m256i *)(to + i),
                            (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + i)));
#else
    for (int i = 0; i < n; i++) to[i] = to_bf16(from[i]);
#endif
}

/* Lane by lane: a where the lane of `where` is all ones, else b. */
INLINE f32x16 pick(i32x16 where, f32x16 a, f32x16 b) {
    return (f32x16)((where & (i32x16)a) | (~where & (i32x16)b));
}

INLINE float sum16(f32x16 value) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += value[i];
    return sum;
}

/* Round sixteen numbers and keep them; give what they have become. */
INLINE f32x16 keep_bf16(bf16 *to, f32x16 value) {
    float numbers[LANES];
    store16(numbers, value);
    round_bf16(to, numbers, LANES);
    return (f32x16)(__builtin_convertvector(*(const u16x16 *)to, u32x16) << 16);
}

/* e to the power of x; Cephes' polynomial, about one unit in the last place. */
INLINE f32x16 exp16(f32x16 x) {
    const f32x16 low = splat(-87.3f), high = splat(88.3f);
    x = pick(x < low, low, x);
    x = pick(x > high, high, x);
    f32x16 turns = x * 1.44269504f + splat(12582912.0f); /* rounds to the nearest whole */
    i32x16 whole = (i32x16)turns - (i32x16)splat(12582912.0f);
    turns -= 12582912.0f;
    x = x - turns * 0.693359375f + turns * 2.12194440e-4f;
    f32x16 y = splat(1.9875691500e-4f);
    y = y * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * x * x + x + 1.0f;
    return (f32x16)((i32x16)y + (whole << 23));
}

/* sum + the products of pairs of bf16 numbers: one pair by sixteen. */
INLINE f32x16 add_pairs(f32x16 sum, uint32_t pair, u32x16 pairs) {
    const u32x16 both = pair - (u32x16){0};
#ifdef __AVX512BF16__
    return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)both, (__m512bh)pairs);
#else
    sum += (f32x16)(both << 16) * (f32x16)(pairs << 16);
    return sum + (f32x16)(both & 0xffff0000u) * (f32x16)(pairs & 0xffff0000u);
#endif
}

/* ---- products ------------------------------------------------------------------------------ */

/* Sums of R tokens by P panels: acc[r][p] = x[r] . panel[p]. R and P are constants where used. */
INLINE void tile_f32(const int R, const int P, const float *x, size_t ldx, const float *w,
                     size_t panel, int inputs, f32x16 acc[MAX_ROWS][4]) {
    for (int k = 0; k < inputs; k++) {
        f32x16 weights[4];
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) {
            const float *at = w + p * panel + (size_t)k * LANES;
            weights[p] = load16(at);
            FETCH_ONCE(at + P * panel);
        }
#pragma GCC unroll 12
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) acc[r][p] += weights[p] * x[r * ldx + k];
    }
}

INLINE void tile_bf16(const int R, const int P, const bf16 *x, size_t ldx, const bf16 *w,
                      size_t panel, int inputs, f32x16 acc[MAX_ROWS][4]) {
    for (int k = 0; k < inputs; k += 2) {
        u32x16 weights[4];
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) {
            weights[p] = *(const u32x16 *)(w + p * panel + (size_t)k * LANES);
            FETCH_ONCE(w + (p + P) * panel + (size_t)k * LANES);
        }
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            uint32_t pair;
            memcpy(&pair, x + r * ldx + k, 4);
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) acc[r][p] = add_pairs(acc[r][p], pair, weights[p]);
        }
    }
}

/* The sums are whole numbers here: x is unsigned (128 added), w is signed. */
INLINE void tile_int8(const int R, const int P, const uint8_t *x, size_t ldx, const int8_t *w,
                      size_t panel, int inputs, f32x16 acc[MAX_ROWS][4]) {
    for (int k = 0; k < inputs; k += 4) {
        i32x16 weights[4];
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) {
            weights[p] = *(const i32x16 *)(w + p * panel + (size_t)k * LANES);
            FETCH_ONCE(w + (p + P) * panel + (size_t)k * LANES);
        }
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            int32_t four;
            memcpy(&four, x + r * ldx + k, 4);
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) {
#ifdef __AVX512VNNI__
                acc[r][p] = (f32x16)_mm512_dpbusd_epi32((__m512i)acc[r][p], _mm512_set1_epi32(four),
                                                        (__m512i)weights[p]);
#else
                i32x16 sum = (i32x16)acc[r][p];
                for (int byte = 0; byte < 4; byte++)
                    sum += (weights[p] << (24 - 8 * byte) >> 24) * ((four >> 8 * byte) & 255);
                acc[r][p] = (f32x16)sum;
#endif
            }
        }
    }
}

/* Where a product goes. */
typedef struct {
    float *y; /* [tokens, ldy] */
    size_t ldy;
    int add; /* to what is there */
    const float *token_scales; /* with INT8 */
} Target;

INLINE void put(const int R, const int P, const Matrix *w, int panel, f32x16 acc[MAX_ROWS][4],
                const Target *to, int token) {
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) {
            const int output = (panel + p) * LANES;
            float *y = to->y + (size_t)(token + r) * to->ldy + output;
            f32x16 sum = acc[r][p];
            if (w->kind == INT8) {
                i32x16 whole = (i32x16)sum - *(const i32x16 *)(w->sums + output);
                sum = __builtin_convertvector(whole, f32x16) * load16(w->scales + output) *
                      to->token_scales[token + r];
            }
            if (w->bias) sum += load16(w->bias + output);
            store16(y, to->add ? sum + load16(y) : sum);
        }
}

INLINE void tile(const int R, const int P, const Matrix *w, int panel, const void *x, size_t ldx,
                 const Target *to, int token) {
    f32x16 acc[MAX_ROWS][4];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) acc[r][p] = (f32x16){0};
    const size_t size = (size_t)w->inputs * LANES, begin = panel * size, row = token * ldx;
    if (w->kind == F32)
        tile_f32(R, P, (const float *)x + row, ldx, (const float *)w->data + begin, size,
                 w->inputs, acc);
    else if (w->kind == BF16)
        tile_bf16(R, P, (const bf16 *)x + row, ldx, (const bf16 *)w->data + begin, size, w->inputs,
                  acc);
    else
        tile_int8(R, P, (const uint8_t *)x + row, ldx, (const int8_t *)w->data + begin, size,
                  w->inputs, acc);
    put(R, P, w, panel, acc, to, token);
}

/* Tokens by panels that are computed at a time. What counts is how often an operand is loaded for
 * each sum, and that there are enough sums to hide their latency; up to 16 tokens go in two halves,
 * the second of which finds its weights in the nearest cache. */
#define CASE(R, P) \
    case R: tile(R, P, w, panel, x, ldx, to, token); break

static void tiles_of_one(int rows, const Matrix *w, int panel, const void *x, size_t ldx,
                         const Target *to, int token) {
    switch (rows) {
        CASE(1, 1); CASE(2, 1); CASE(3, 1); CASE(4, 1); CASE(5, 1); CASE(6, 1); CASE(7, 1);
        CASE(8, 1); CASE(9, 1); CASE(10, 1); CASE(11, 1); CASE(12, 1);
    }
}

static void tiles_of_two(int rows, const Matrix *w, int panel, const void *x, size_t ldx,
                         const Target *to, int token) {
    switch (rows) {
        CASE(1, 2); CASE(2, 2); CASE(3, 2); CASE(4, 2); CASE(5, 2); CASE(6, 2); CASE(7, 2);
        CASE(8, 2); CASE(9, 2); CASE(10, 2); CASE(11, 2); CASE(12, 2);
    }
}

static void tiles_of_four(int rows, const Matrix *w, int panel, const void *x, size_t ldx,
                          const Target *to, int token) {
    switch (rows) { CASE(1, 4); CASE(2, 4); CASE(3, 4); CASE(4, 4); }
}

INLINE size_t size_of(int kind) { return kind == F32 ? 4 : kind == BF16 ? 2 : 1; }

/* Bring weights that are multiplied next into a nearer cache: few tokens are computed faster than
 * memory answers. */
static void fetch(const Matrix *w, int first, int last) {
    const size_t panel = w->inputs * LANES * size_of(w->kind);
    const char *end = (const char *)w->data + last * panel;
    for (const char *at = (const char *)w->data + first * panel; at < end; at += 64)
        FETCH_ONCE(at);
}

static _Thread_local int64_t counted_multiply_adds, counted_weight_bytes;

/* Note what a thread has multiplied since it last did. */
static void count(Step *step) {
    __atomic_fetch_add(&step->multiply_adds, counted_multiply_adds, __ATOMIC_RELAXED);
    __atomic_fetch_add(&step->weight_bytes, counted_weight_bytes, __ATOMIC_RELAXED);
    counted_multiply_adds = counted_weight_bytes = 0;
}

/* Panels first to last of `tokens` tokens' product with w. */
static void product(const Matrix *w, int first, int last, const void *x, size_t ldx, int start,
                    int end, const Target *to) {
    const int tokens = end - start;
    const int tiles = tokens <= 8 ? 1 : tokens <= 16 ? 2 : (tokens + MAX_ROWS - 1) / MAX_ROWS;
    const int rows = (tokens + tiles - 1) / tiles;
    const int group = rows <= 4 ? 4 : 2;
    const int64_t weights = (int64_t)(last - first) * LANES * w->inputs;
    counted_multiply_adds += weights * tokens;
    counted_weight_bytes += weights * size_of(w->kind);
    for (int panel = first; panel < last;) {
        const int panels = last - panel >= group ? group : last - panel >= 2 ? 2 : 1;
        for (int token = start; token < end; token += rows) {
            const int now = end - token < rows ? end - token : rows;
            if (panels == 4) tiles_of_four(now, w, panel, x, ldx, to, token);
            else if (panels == 2) tiles_of_two(now, w, panel, x, ldx, to, token);
            else tiles_of_one(now, w, panel, x, ldx, to, token);
        }
        panel += panels;
    }
}

INLINE int share(int count, int part, int parts) { return (int)((int64_t)count * part / parts); }

INLINE int at_most(int limit, int64_t count) { return count < limit ? (int)count : limit; }

INLINE int panels_of(const Matrix *w) { return (w->outputs + LANES - 1) / LANES; }

/* Whether no number is NaN or infinite. */
static int sums_to_a_number(const float *x, int n) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * 0.0f;
    return sum == 0.0f;
}

/* ---- the parts of a layer ------------------------------------------------------------------ */

/* Store one token's operand in the weights' kind, and in bf16 beside INT8 weights. */
static void pack_operand(const Operand *to, const Shape *shape, int token, const float *x, int n) {
    const size_t at = (size_t)token * n;
    if (shape->kind == F32) memcpy((float *)to->packed + at, x, n * sizeof(float));
    if (shape->kind == BF16) round_bf16((bf16 *)to->packed + at, x, n);
    if (shape->kind != INT8) return;
    float most = 1e-20f;
    for (int i = 0; i < n; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    to->scales[token] = sums_to_a_number(x, n) ? most / 127.0f : NAN;
    for (int i = 0; i < n; i++)
        ((uint8_t *)to->packed)[at + i] = (uint8_t)(128.5f + x[i] * (127.0f / most));
    round_bf16((bf16 *)to->beside + at, x, n);
}

static void norm(const Step *step, const Shape *shape, const float *weight, const Operand *to,
                 int begin, int end) {
    float y[shape->hidden];
    for (int token = begin; token < end; token++) {
        const float *x = step->hidden + (size_t)token * shape->hidden;
        f32x16 squares = {0};
        for (int i = 0; i < shape->hidden; i += LANES) squares += load16(x + i) * load16(x + i);
        const float factor = 1.0f / sqrtf(sum16(squares) / shape->hidden + shape->norm_epsilon);
        for (int i = 0; i < shape->hidden; i++) y[i] = x[i] * factor * weight[i];
        pack_operand(to, shape, token, y, shape->hidden);
    }
}

/* A thread's part of `own`. */
static Operand own_part(const Member *me, const Step *step, const Shape *shape) {
    const size_t token = (size_t)me->thread * step->own_tokens;
    const size_t at = token * shape->hidden;
    return (Operand){(char *)step->own.packed + at * size_of(shape->kind),
                     (bf16 *)step->own.beside + at, step->own.scales + token};
}

/* The normed operand of all tokens. Few tokens are cheaper done by every thread than waited for. */
static Operand normed(const Member *me, const Step *step, const Shape *shape, const float *weight) {
    const int thread = me->thread, threads = me->team->threads;
    if (step->num_tokens <= step->own_tokens) {
        const Operand own = own_part(me, step, shape);
        norm(step, shape, weight, &own, 0, step->num_tokens);
        return own;
    }
    norm(step, shape, weight, &step->shared, share(step->num_tokens, thread, threads),
         share(step->num_tokens, thread + 1, threads));
    team_meet(me->team);
    return step->shared;
}

INLINE const Update *update_at(const Segment *segment, int layer, int site) {
    return segment->updates[layer * NUM_SITES + site];
}

/* Panels of one narrow product. */
typedef struct {
    const Segment *segment;
    const Matrix *w;
    int first, last;
} Narrow;

/* Compute them, rounded to the adapters' kind. */
static void shrink(const Step *step, const Shape *shape, const Operand *operand,
                   const Narrow *narrow) {
    const int first = narrow->first, panels = narrow->last - first;
    if (panels <= 0) return;
    const int start = narrow->segment->start, end = narrow->segment->end;
    const void *x = shape->kind == INT8 ? operand->beside : operand->packed;
    const Target to = {step->narrow, step->max_rank, 0, NULL};
    product(narrow->w, first, first + panels, x, narrow->w->inputs, start, end, &to);
    if (shape->kind == F32) return;
    for (int token = start; token < end; token++) {
        const size_t at = (size_t)token * step->max_rank + first * LANES;
        round_bf16(step->narrow_packed + at, step->narrow + at, panels * LANES);
    }
}

/* The first of `count` pieces that cost `each` which begins at `cost` or later. */
INLINE int first_from(int64_t cost, int64_t each, int count) {
    return cost <= 0 ? 0 : at_most(count, (cost + each - 1) / each);
}

/* Cost of one panel for so many tokens: loading its weights takes as long as sixteen tokens do. */
INLINE int64_t panel_cost(int tokens) { return tokens > 16 ? tokens : 16; }

/* The next segment from `s` on that has an update at a site. */
INLINE int next_with(const Step *step, int s, int layer, int site) {
    while (s < step->num_segments && !update_at(&step->segments[s], layer, site)) s++;
    return s;
}

/* What the narrow products of a site cost together. */
static int64_t shrink_cost(const Step *step, int layer, int site) {
    int64_t cost = 0;
    for (int s = next_with(step, 0, layer, site); s < step->num_segments;
         s = next_with(step, s + 1, layer, site)) {
        const Segment *segment = &step->segments[s];
        const Matrix *w = &update_at(segment, layer, site)->shrink;
        cost += panels_of(w) * panel_cost(segment->end - segment->start);
    }
    return cost;
}

/* A thread's part of a site's narrow products, which share their cost. Each one's weights are
 * fetched while the one before is computed. */
static void shrink_part(const Member *me, const Step *step, const Shape *shape,
                        const Operand *operand, int layer, int site) {
    const int64_t cost = shrink_cost(step, layer, site);
    const int64_t begin = cost * me->thread / me->team->threads;
    const int64_t end = cost * (me->thread + 1) / me->team->threads;
    int64_t at = 0;
    Narrow before = {0};
    for (int s = next_with(step, 0, layer, site); s < step->num_segments;
         s = next_with(step, s + 1, layer, site)) {
        const Segment *segment = &step->segments[s];
        const Matrix *w = &update_at(segment, layer, site)->shrink;
        const int64_t each = panel_cost(segment->end - segment->start);
        const Narrow now = {segment, w, first_from(begin - at, each, panels_of(w)),
                            first_from(end - at, each, panels_of(w))};
        fetch(w, now.first, now.last);
        shrink(step, shape, operand, &before);
        before = now;
        at += panels_of(w) * each;
    }
    shrink(step, shape, operand, &before);
}

/* The panels of one part of an update that lie among the site's panels first to last. */
INLINE void among(const Update *update, int part, int first, int last, int *from, int *to) {
    const int start = update->output_start[part] / LANES, panels = panels_of(&update->expand[part]);
    *from = first > start ? first - start : 0;
    *to = last - start < panels ? last - start : panels;
}

static void expand(const Step *step, const Shape *shape, const Segment *segment,
                   const Update *update, float *y, size_t ldy, int first, int last) {
    for (int part = 0, from, to; part < update->num_parts; part++) {
        among(update, part, first, last, &from, &to);
        if (from >= to) continue;
        const Target target = {y + update->output_start[part], ldy, 1, NULL};
        const int rank = update->rank_start[part];
        const void *x = shape->kind == F32 ? (const void *)(step->narrow + rank)
                                           : (const void *)(step->narrow_packed + rank);
        product(&update->expand[part], from, to, x, step->max_rank, segment->start, segment->end,
                &target);
    }
}

/* Add every segment's update to panels first to last of the site's outputs. */
static void expand_all(const Step *step, const Shape *shape, int layer, int site, float *y,
                       size_t ldy, int first, int last) {
    for (int s = next_with(step, 0, layer, site); s < step->num_segments;
         s = next_with(step, s + 1, layer, site)) {
        const Segment *segment = &step->segments[s];
        expand(step, shape, segment, update_at(segment, layer, site), y, ldy, first, last);
    }
}

/* Fetch the weights of those updates. */
static void fetch_expands(const Step *step, int layer, int site, int first, int last) {
    for (int s = next_with(step, 0, layer, site); s < step->num_segments;
         s = next_with(step, s + 1, layer, site)) {
        const Update *update = update_at(&step->segments[s], layer, site);
        for (int part = 0, from, to; part < update->num_parts; part++) {
            among(update, part, first, last, &from, &to);
            fetch(&update->expand[part], from, to);
        }
    }
}

/* y = x w' (+ y), with every segment's update; ends with a barrier.
 *
 * Updates are added to a few panels at a time, as long as those are in the nearest cache. */
static void project(const Member *me, const Step *step, const Shape *shape, const Operand *operand,
                    const Matrix *w, int layer, int site, float *y, size_t ldy, int add) {
    const int panels = panels_of(w), threads = me->team->threads;
    const int begin = share(panels, me->thread, threads);
    const int end = share(panels, me->thread + 1, threads);
    const Target to = {y, ldy, add, operand->scales};
    const int has_updates = next_with(step, 0, layer, site) < step->num_segments;
    if (has_updates) {
        shrink_part(me, step, shape, operand, layer, site);
        team_meet(me->team);
    }
    const int run = has_updates ? HOT_PANELS : panels;
    for (int first = begin, last; first < end; first = last) {
        last = at_most(end, first + run);
        if (has_updates) fetch_expands(step, layer, site, first, last);
        product(w, first, last, operand->packed, w->inputs, 0, step->num_tokens, &to);
        if (has_updates) expand_all(step, shape, layer, site, y, ldy, first, last);
    }
    team_meet(me->team);
}

static void head_norm(float *x, const float *weight, int dim, float epsilon) {
    float sum = 0;
    for (int i = 0; i < dim; i++) sum += x[i] * x[i];
    const float factor = 1.0f / sqrtf(sum / dim + epsilon);
    for (int i = 0; i < dim; i++) x[i] *= factor * weight[i];
}

static void rotate(float *x, const float *cosines, const float *sines, int rotary) {
    const int half = rotary / 2;
    for (int i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cosines[i] - b * sines[i];
        x[i + half] = b * cosines[i + half] + a * sines[i + half];
    }
}

/* Keys lie in a block so that sixteen of them are multiplied at a time, values so that a head's
 * numbers are; with bf16, two neighbours that are added up lie side by side. */
static void keep(const Layer *layer, const Shape *shape, int block, int head, int slot,
                 const float *key, const float *value) {
    const int dim = shape->dim;
    const size_t at = ((size_t)block * shape->key_heads + head) * dim * LANES;
    if (shape->kind == F32) {
        float *keys = (float *)layer->keys + at, *values = (float *)layer->values + at;
        for (int i = 0; i < dim; i++) keys[i * LANES + slot] = key[i];
        memcpy(values + slot * dim, value, dim * sizeof(float));
        return;
    }
    bf16 *keys = (bf16 *)layer->keys + at + slot * 2;
    bf16 *values = (bf16 *)layer->values + at + slot / 2 * 2 * dim + slot % 2;
    bf16 key_rounded[dim], value_rounded[dim];
    round_bf16(key_rounded, key, dim);
    round_bf16(value_rounded, value, dim);
    for (int i = 0; i < dim; i += 2) memcpy(keys + i * LANES, key_rounded + i, 4);
    for (int i = 0; i < dim; i++) values[2 * i] = value_rounded[i];
}

/* Turn one token's queries and keys to its position, and keep its keys and values. */
static void place(const Step *step, const Layer *layer, const Shape *shape, int token) {
    const int dim = shape->dim, heads = shape->heads, key_heads = shape->key_heads;
    float *q = step->wide + (size_t)token * step->wide_stride;
    float *k = q + heads * dim, *v = k + key_heads * dim;
    const size_t turned = (size_t)step->position[token] * shape->rotary_dim;
    const float *cosines = step->cosines + turned, *sines = step->sines + turned;
    const int place = step->place[token];
    const int32_t *blocks = step->table + (size_t)step->row[token] * step->max_blocks;
    for (int head = 0; head < heads; head++) {
        if (layer->query_norm)
            head_norm(q + head * dim, layer->query_norm, dim, shape->norm_epsilon);
        rotate(q + head * dim, cosines, sines, shape->rotary_dim);
    }
    for (int head = 0; head < key_heads; head++) {
        if (layer->key_norm)
            head_norm(k + head * dim, layer->key_norm, dim, shape->norm_epsilon);
        rotate(k + head * dim, cosines, sines, shape->rotary_dim);
        keep(layer, shape, blocks[place / LANES], head, place % LANES, k + head * dim,
             v + head * dim);
    }
}

/* What one token's queries attend to. */
typedef struct {
    const int32_t *blocks;
    int num_blocks;
    int places; /* its own is the last */
    size_t head; /* of a key head in a block */
    size_t stride; /* from block to block */
} View;

INLINE size_t block_at(const View *view, int block) {
    return view->blocks[block] * view->stride + view->head;
}

/* Scores of G queries against N blocks of sixteen keys, from `block` on; fetches their values. */
INLINE void score_blocks(const int G, const int N, const Shape *shape, const Layer *layer,
                         const View *view, int block, const float *q, const bf16 *q_packed,
                         f32x16 scores[2][MAX_GROUP]) {
    const void *keys = layer->keys, *values = layer->values;
    const int dim = shape->dim;
    size_t at[2];
    for (int n = 0; n < N; n++) at[n] = block_at(view, block + n);
#pragma GCC unroll 2
    for (int n = 0; n < N; n++)
#pragma GCC unroll 4
        for (int g = 0; g < G; g++) scores[n][g] = (f32x16){0};
    if (shape->kind == F32) {
        for (int i = 0; i < dim; i++)
#pragma GCC unroll 2
            for (int n = 0; n < N; n++) {
                const f32x16 sixteen = load16((const float *)keys + at[n] + i * LANES);
                FETCH_ONCE((const float *)values + at[n] + i * LANES);
#pragma GCC unroll 4
                for (int g = 0; g < G; g++) scores[n][g] += sixteen * q[g * dim + i];
            }
        return;
    }
    for (int i = 0; i < dim; i += 2)
#pragma GCC unroll 2
        for (int n = 0; n < N; n++) {
            const u32x16 pairs = *(const u32x16 *)((const bf16 *)keys + at[n] + i * LANES);
            FETCH_ONCE((const bf16 *)values + at[n] + i * LANES);
#pragma GCC unroll 4
            for (int g = 0; g < G; g++) {
                uint32_t pair;
                memcpy(&pair, q_packed + g * dim + i, 4);
                scores[n][g] = add_pairs(scores[n][g], pair, pairs);
            }
        }
}

/* Blank out the places of a block that a token does not see. */
INLINE f32x16 mask_block(const Step *step, int token, int first, int end, f32x16 scores) {
    const i32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    if (first + LANES > end) scores = pick(lane + first < end, scores, splat(-INFINITY));
    const uint8_t *seen = step->seen[token];
    if (seen && first + LANES > step->seen_from[token])
        for (int i = 0; i < LANES; i++) {
            const int beyond = first + i - step->seen_from[token];
            if (beyond >= 0 && first + i < end && !seen[beyond]) scores[i] = -INFINITY;
        }
    return scores;
}

/* Turn scores into weights of the keys' kind, in place; give one over their sum. */
static float soften(float *scores, int places, int kind) {
    f32x16 highest = splat(-INFINITY), sums = {0};
    for (int i = 0; i < places; i += LANES) {
        const f32x16 sixteen = load16(scores + i);
        highest = pick(sixteen > highest, sixteen, highest);
    }
    float most = -INFINITY;
    for (int i = 0; i < LANES; i++) most = highest[i] > most ? highest[i] : most;
    for (int i = 0; i < places; i += LANES) {
        f32x16 weights = exp16(load16(scores + i) - most);
        weights = pick(load16(scores + i) == splat(-INFINITY), (f32x16){0}, weights);
        if (kind == F32) store16(scores + i, weights);
        else weights = keep_bf16((bf16 *)scores + i, weights);
        sums += weights;
    }
    return 1.0f / sum16(sums);
}

/* The weighted sums of V vectors of the values from `d` on, for G heads. */
INLINE void mix_f32(const int G, const int V, const Shape *shape, const float *values,
                    const View *view, int d, const float *weights, size_t ld,
                    f32x16 sums[MAX_GROUP][4]) {
    for (int b = 0; b < view->num_blocks; b++) {
        const float *from = values + block_at(view, b) + d;
        const int slots = at_most(LANES, view->places - b * LANES);
        for (int slot = 0; slot < slots; slot++) {
            f32x16 value[4];
#pragma GCC unroll 4
            for (int v = 0; v < V; v++)
                value[v] = load16(from + (size_t)slot * shape->dim + v * LANES);
#pragma GCC unroll 4
            for (int g = 0; g < G; g++)
#pragma GCC unroll 4
                for (int v = 0; v < V; v++)
                    sums[g][v] += value[v] * weights[g * ld + b * LANES + slot];
        }
    }
}

/* The same two places at a time. What lies beyond the last place may be anything: it is cut off. */
INLINE void mix_bf16(const int G, const int V, const Shape *shape, const bf16 *values,
                     const View *view, int d, const bf16 *weights, size_t ld,
                     f32x16 sums[MAX_GROUP][4]) {
    for (int b = 0; b < view->num_blocks; b++) {
        const bf16 *from = values + block_at(view, b) + 2 * d;
        const int slots = at_most(LANES, view->places - b * LANES);
        for (int slot = 0; slot < slots; slot += 2) {
            const uint32_t both = slot + 1 < slots ? 0xffffffffu : 0xffffu;
            u32x16 pairs[4];
#pragma GCC unroll 4
            for (int v = 0; v < V; v++)
                pairs[v] =
                    *(const u32x16 *)(from + (size_t)slot * shape->dim + 2 * v * LANES) & both;
#pragma GCC unroll 4
            for (int g = 0; g < G; g++) {
                uint32_t pair;
                memcpy(&pair, weights + g * ld + b * LANES + slot, 4);
#pragma GCC unroll 4
                for (int v = 0; v < V; v++) sums[g][v] = add_pairs(sums[g][v], pair, pairs[v]);
            }
        }
    }
}

INLINE void mix(const int G, const int V, const Step *step, const Shape *shape, const void *values,
                const View *view, int d, const float *weights, const float *factors, float *out) {
    f32x16 sums[MAX_GROUP][4];
    const size_t ld = step->max_places;
#pragma GCC unroll 4
    for (int g = 0; g < G; g++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) sums[g][v] = (f32x16){0};
    if (shape->kind == F32) mix_f32(G, V, shape, values, view, d, weights, ld, sums);
    else mix_bf16(G, V, shape, values, view, d, (const bf16 *)weights, 2 * ld, sums);
#pragma GCC unroll 4
    for (int g = 0; g < G; g++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++)
            store16(out + (size_t)g * shape->dim + d + v * LANES, sums[g][v] * factors[g]);
}

/* G queries of one token that share a key head: [G, dim] in, [G, dim] out. */
INLINE void attend_group(const int G, const Step *step, const Layer *layer, const Shape *shape,
                         int token, const View *view, const float *q, float *weights, float *out) {
    const int dim = shape->dim;
    float scaled[G * dim], factors[MAX_GROUP];
    bf16 packed[G * dim];
    for (int i = 0; i < G * dim; i++) scaled[i] = q[i] * shape->scaling;
    if (shape->kind != F32) round_bf16(packed, scaled, G * dim);
    for (int b = 0; b < view->num_blocks;) {
        const int n = at_most(2, view->num_blocks - b);
        f32x16 scores[2][MAX_GROUP];
        if (n == 2) score_blocks(G, 2, shape, layer, view, b, scaled, packed, scores);
        else score_blocks(G, 1, shape, layer, view, b, scaled, packed, scores);
        for (int end = b + n, i = 0; b < end; b++, i++)
            for (int g = 0; g < G; g++)
                store16(weights + (size_t)g * step->max_places + b * LANES,
                        mask_block(step, token, b * LANES, view->places, scores[i][g]));
    }
    for (int g = 0; g < G; g++)
        factors[g] = soften(weights + (size_t)g * step->max_places, view->num_blocks * LANES,
                            shape->kind);
    int d = 0;
    for (; d + 4 * LANES <= dim; d += 4 * LANES)
        mix(G, 4, step, shape, layer->values, view, d, weights, factors, out);
    for (; d < dim; d += LANES)
        mix(G, 1, step, shape, layer->values, view, d, weights, factors, out);
}

/* All queries of one token that share a key head. */
static void attend(const Step *step, const Layer *layer, const Shape *shape, int token, int head,
                   float *weights, float *out) {
    const int dim = shape->dim, group = shape->heads / shape->key_heads;
    const size_t size = (size_t)dim * LANES;
    const int places = step->place[token] + 1;
    const View view = {step->table + (size_t)step->row[token] * step->max_blocks,
                       (places + LANES - 1) / LANES, places, head * size, shape->key_heads * size};
    const float *q = step->wide + (size_t)token * step->wide_stride + (size_t)head * group * dim;
    for (int g = 0; g < group; g += MAX_GROUP) {
        const float *some = q + (size_t)g * dim;
        float *y = out + (size_t)g * dim;
        switch (group - g) {
            case 1: attend_group(1, step, layer, shape, token, &view, some, weights, y); break;
            case 2: attend_group(2, step, layer, shape, token, &view, some, weights, y); break;
            case 3: attend_group(3, step, layer, shape, token, &view, some, weights, y); break;
            default: attend_group(4, step, layer, shape, token, &view, some, weights, y);
        }
    }
}

/* Attention of all tokens, as the next operand; ends with a barrier. A token's keys must be placed
 * before another one sees them: nobody's are, where each is the last of a row of its own. */
static void attend_all(const Member *me, const Step *step, const Layer *layer, const Shape *shape) {
    const int thread = me->thread, threads = me->team->threads;
    const int group = shape->heads / shape->key_heads, width = shape->heads * shape->dim;
    float *weights = step->scores + (size_t)thread * MAX_GROUP * step->max_places;
    float out[width];
    if (!step->is_decoding) {
        const int end = share(step->num_tokens, thread + 1, threads);
        for (int token = share(step->num_tokens, thread, threads); token < end; token++)
            place(step, layer, shape, token);
        team_meet(me->team);
    }
    for (int token; (token = team_next(me->team)) < step->num_tokens;) {
        if (step->is_decoding) place(step, layer, shape, token);
        for (int head = 0; head < shape->key_heads; head++)
            attend(step, layer, shape, token, head, weights, out + head * group * shape->dim);
        pack_operand(&step->shared, shape, token, out, width);
    }
    team_meet(me->team);
}

static void gate(const Step *step, const Shape *shape, int begin, int end) {
    const int n = shape->intermediate;
    float y[n];
    for (int token = begin; token < end; token++) {
        const float *g = step->wide + (size_t)token * step->wide_stride, *up = g + n;
        for (int i = 0; i < n; i += LANES) {
            const f32x16 x = load16(g + i);
            store16(y + i, x / (exp16(-x) + 1.0f) * load16(up + i));
        }
        pack_operand(&step->shared, shape, token, y, n);
    }
}

/* ---- what is called from outside ----------------------------------------------------------- */

typedef struct {
    const Layer *layers;
    int num_layers;
    const float *final_norm;
    const Matrix *head;
    float *logits;
    const Shape *shape;
    Step *step;
} Job;

static void run_layers(const Member *me, void *argument) {
    const Job *job = argument;
    const Shape *shape = job->shape;
    Step *step = job->step;
    const int begin = share(step->num_tokens, me->thread, me->team->threads);
    const int end = share(step->num_tokens, me->thread + 1, me->team->threads);
    const size_t width = shape->hidden, stride = step->wide_stride;
    for (int i = 0; i < job->num_layers; i++) {
        const Layer *layer = &job->layers[i];
        Operand x = normed(me, step, shape, layer->attention_norm);
        project(me, step, shape, &x, &layer->qkv, i, QKV, step->wide, stride, 0);
        attend_all(me, step, layer, shape);
        project(me, step, shape, &step->shared, &layer->out, i, OUT, step->hidden, width, 1);
        x = normed(me, step, shape, layer->mlp_norm);
        project(me, step, shape, &x, &layer->gate_up, i, GATE_UP, step->wide, stride, 0);
        gate(step, shape, begin, end);
        team_meet(me->team);
        project(me, step, shape, &step->shared, &layer->down, i, DOWN, step->hidden, width, 1);
    }
    count(step);
}

static void run_head(const Member *me, void *argument) {
    const Job *job = argument;
    const Operand x = normed(me, job->step, job->shape, job->final_norm);
    project(me, job->step, job->shape, &x, job->head, 0, 0, job->logits,
            (size_t)panels_of(job->head) * LANES, 0);
    count(job->step);
}

void loradock_layers(Team *team, const Layer *layers, int num_layers, const Shape *shape,
                     Step *step) {
    Job job = {.layers = layers, .num_layers = num_layers, .shape = shape, .step = step};
    team_run(team, run_layers, &job);
}

/* The final norm and the output head over the step's `hidden`; logits: [tokens, padded outputs]. */
void loradock_head(Team *team, const float *norm, const Matrix *head, const Shape *shape,
                   Step *step, float *logits) {
    Job job = {.final_norm = norm, .head = head, .logits = logits, .shape = shape, .step = step};
    team_run(team, run_head, &job);
}
