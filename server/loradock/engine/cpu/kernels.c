/* The arithmetic of one decoder layer on a CPU, over a mixed batch of tokens.
 *
 * Written for skinny inputs (1 to some hundred tokens): weights are streamed once through all tokens
 * of the step, sixteen outputs (one panel) at a time, with the sums of up to sixteen tokens kept in
 * registers. An adapter's factors are packed the same way and go through the same products, on the
 * slice of the tokens that are its own. Sums are float32 whatever the weights are.
 *
 * Every function runs inside the caller's OpenMP team; a barrier ends a phase whose results other
 * threads read. Vectors are GCC's, so that any CPU runs this; instructions that make the inner
 * product faster are used where the compiler says that they are there.
 */
#include <math.h>
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define LANES 16 /* outputs of a panel, keys of a block */
#define MAX_ROWS 16 /* tokens whose sums fit into registers */
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

/* One step. `operands` of a product stand in the kind of the weights, in `packed`. */
typedef struct {
    int32_t threads, num_tokens, num_segments, max_blocks;
    const float *cosines, *sines; /* [tokens, rotary_dim] */
    const int32_t *table; /* [rows, max_blocks] */
    const int32_t *row; /* of a token, in `table` */
    const int32_t *place; /* of a token, in its row */
    const uint8_t *const *seen; /* of a token: which places from `seen_from` on it sees; or NULL */
    const int32_t *seen_from;
    const Segment *segments;
    float *hidden; /* [tokens, hidden]: the residual stream */
    float *wide; /* [tokens, widest projection] */
    float *narrow; /* [tokens, max_rank] */
    int32_t max_rank;
    void *packed; /* [tokens, widest input], in the weights' kind */
    void *packed_adapter; /* the same in the adapters' kind, where that is another */
    float *token_scales; /* [tokens]: with INT8 */
    bf16 *narrow_packed; /* [tokens, max_rank] */
    float *scores; /* [threads, heads of a group, places] */
    int32_t max_places;
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

INLINE f32x16 load16_bf16(const bf16 *from) {
    u32x16 bits = __builtin_convertvector(*(const u16x16 *)from, u32x16) << 16;
    return (f32x16)bits;
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

/* ---- products ------------------------------------------------------------------------------ */

/* Sums of R tokens by P panels: acc[r][p] = x[r] . panel[p]. R and P are constants where used. */
INLINE void tile_f32(const int R, const int P, const float *x, size_t ldx, const float *w,
                     size_t panel, int inputs, f32x16 acc[MAX_ROWS][4]) {
    for (int k = 0; k < inputs; k++) {
        f32x16 weights[4];
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) weights[p] = load16(w + p * panel + (size_t)k * LANES);
#pragma GCC unroll 16
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
        for (int p = 0; p < P; p++)
            weights[p] = *(const u32x16 *)(w + p * panel + (size_t)k * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            uint32_t pair;
            memcpy(&pair, x + r * ldx + k, 4);
            u32x16 both = pair - (u32x16){0};
#pragma GCC unroll 4
            for (int p = 0; p < P; p++) {
#ifdef __AVX512BF16__
                acc[r][p] = (f32x16)_mm512_dpbf16_ps((__m512)acc[r][p], (__m512bh)both,
                                                     (__m512bh)weights[p]);
#else
                acc[r][p] += (f32x16)(both << 16) * (f32x16)(weights[p] << 16);
                acc[r][p] += (f32x16)(both & 0xffff0000u) * (f32x16)(weights[p] & 0xffff0000u);
#endif
            }
        }
    }
}

/* The sums are whole numbers here: x is unsigned (128 added), w is signed. */
INLINE void tile_int8(const int R, const int P, const uint8_t *x, size_t ldx, const int8_t *w,
                      size_t panel, int inputs, f32x16 acc[MAX_ROWS][4]) {
    for (int k = 0; k < inputs; k += 4) {
        i32x16 weights[4];
#pragma GCC unroll 4
        for (int p = 0; p < P; p++)
            weights[p] = *(const i32x16 *)(w + p * panel + (size_t)k * LANES);
#pragma GCC unroll 16
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
#pragma GCC unroll 16
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
#pragma GCC unroll 16
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

/* Few tokens leave registers for more panels at a time, which hides the latency of the sums. */
#define CASE(R, P) \
    case R: tile(R, P, w, panel, x, ldx, to, token); break
#define NARROW(R) CASE(R, 1)

static void tiles_of_one(int rows, const Matrix *w, int panel, const void *x, size_t ldx,
                         const Target *to, int token) {
    switch (rows) {
        NARROW(1); NARROW(2); NARROW(3); NARROW(4); NARROW(5); NARROW(6); NARROW(7); NARROW(8);
        NARROW(9); NARROW(10); NARROW(11); NARROW(12); NARROW(13); NARROW(14); NARROW(15);
        NARROW(16);
    }
}

static void tiles_of_two(int rows, const Matrix *w, int panel, const void *x, size_t ldx,
                         const Target *to, int token) {
    switch (rows) { CASE(5, 2); CASE(6, 2); CASE(7, 2); CASE(8, 2); CASE(12, 2); }
}

static void tiles_of_four(int rows, const Matrix *w, int panel, const void *x, size_t ldx,
                          const Target *to, int token) {
    switch (rows) { CASE(1, 4); CASE(2, 4); CASE(3, 4); CASE(4, 4); }
}

/* Panels first to last of `tokens` tokens' product with w. */
static void product(const Matrix *w, int first, int last, const void *x, size_t ldx, int start,
                    int end, const Target *to) {
    const int tokens = end - start;
    const int rows = tokens <= MAX_ROWS ? tokens : 12;
    const int group = rows <= 4 ? 4 : rows <= 8 || tokens > MAX_ROWS ? 2 : 1;
    for (int panel = first; panel < last;) {
        const int panels = last - panel >= group ? group : 1;
        for (int token = start; token < end; token += rows) {
            const int now = end - token < rows ? end - token : rows;
            if (panels == 4 && now <= 4) tiles_of_four(now, w, panel, x, ldx, to, token);
            else if (panels == 2 && (now == 12 || (now >= 5 && now <= 8)))
                tiles_of_two(now, w, panel, x, ldx, to, token);
            else
                for (int p = 0; p < panels; p++)
                    tiles_of_one(now, w, panel + p, x, ldx, to, token);
        }
        panel += panels;
    }
}

INLINE int share(int count, int part, int parts) { return (int)((int64_t)count * part / parts); }

INLINE int panels_of(const Matrix *w) { return (w->outputs + LANES - 1) / LANES; }

/* ---- the parts of a layer ------------------------------------------------------------------ */

/* Store one token's operand in the weights' kind, and in bf16 beside INT8 weights. */
static void pack_operand(const Step *step, const Shape *shape, int token, const float *x, int n,
                         int adapted) {
    if (shape->kind == F32) {
        memcpy((float *)step->packed + (size_t)token * n, x, n * sizeof(float));
        return;
    }
    if (shape->kind == BF16 || adapted) {
        bf16 *to = (bf16 *)(shape->kind == BF16 ? step->packed : step->packed_adapter);
        for (int i = 0; i < n; i++) to[(size_t)token * n + i] = to_bf16(x[i]);
    }
    if (shape->kind == INT8) {
        float most = 1e-20f;
        for (int i = 0; i < n; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        step->token_scales[token] = most / 127.0f;
        uint8_t *to = (uint8_t *)step->packed + (size_t)token * n;
        for (int i = 0; i < n; i++)
            to[i] = (uint8_t)(128.5f + x[i] * (127.0f / most)); /* NaN ends as any number: see norm */
    }
}

static void norm(const Step *step, const Shape *shape, const float *weight, int begin, int end) {
    for (int token = begin; token < end; token++) {
        const float *x = step->hidden + (size_t)token * shape->hidden;
        float y[shape->hidden];
        f32x16 squares = {0};
        int i = 0;
        for (; i + LANES <= shape->hidden; i += LANES) squares += load16(x + i) * load16(x + i);
        float sum = sum16(squares);
        for (; i < shape->hidden; i++) sum += x[i] * x[i];
        const float factor = 1.0f / sqrtf(sum / shape->hidden + shape->norm_epsilon);
        for (i = 0; i < shape->hidden; i++) y[i] = x[i] * factor * weight[i];
        pack_operand(step, shape, token, y, shape->hidden, step->num_segments > 0);
    }
}

INLINE const Update *update_at(const Segment *segment, int layer, int site) {
    return segment->updates[layer * NUM_SITES + site];
}

/* The narrow products of all segments; a task is a panel of one segment. */
static int shrink_all(const Step *step, const Shape *shape, int layer, int site, int inputs,
                      int thread, int threads) {
    const void *x = shape->kind == INT8 ? step->packed_adapter : step->packed;
    const Target to = {step->narrow, step->max_rank, 0, NULL};
    int task = 0, found = 0;
    for (int s = 0; s < step->num_segments; s++) {
        const Segment *segment = &step->segments[s];
        const Update *update = update_at(segment, layer, site);
        if (!update) continue;
        found = 1;
        for (int panel = 0; panel < panels_of(&update->shrink); panel++)
            if (task++ % threads == thread)
                product(&update->shrink, panel, panel + 1, x, inputs, segment->start, segment->end,
                        &to);
    }
    return found;
}

/* Rounds the narrow products of a thread's tokens for the wide ones. */
static void pack_narrow(const Step *step, const Shape *shape, int begin, int end) {
    if (shape->kind == F32) return;
    const size_t first = (size_t)begin * step->max_rank, last = (size_t)end * step->max_rank;
    for (size_t i = first; i < last; i++) step->narrow_packed[i] = to_bf16(step->narrow[i]);
}

static void expand_all(const Step *step, const Shape *shape, int layer, int site, float *y,
                       size_t ldy, int first, int last) {
    for (int s = 0; s < step->num_segments; s++) {
        const Segment *segment = &step->segments[s];
        const Update *update = update_at(segment, layer, site);
        if (!update) continue;
        for (int part = 0; part < update->num_parts; part++) {
            const Matrix *w = &update->expand[part];
            const int start = update->output_start[part] / LANES;
            const int from = first > start ? first - start : 0;
            const int to = last - start < panels_of(w) ? last - start : panels_of(w);
            if (from >= to) continue;
            const Target target = {y + update->output_start[part], ldy, 1, NULL};
            const int rank = update->rank_start[part];
            const void *x = shape->kind == F32 ? (const void *)(step->narrow + rank)
                                               : (const void *)(step->narrow_packed + rank);
            product(w, from, to, x, step->max_rank, segment->start, segment->end, &target);
        }
    }
}

/* y = x w' (+ y), with every segment's update; ends with a barrier. */
static void project(const Step *step, const Shape *shape, const Matrix *w, int layer, int site,
                    float *y, int add) {
    const int thread = omp_get_thread_num(), threads = omp_get_num_threads();
    const int first = share(panels_of(w), thread, threads);
    const int last = share(panels_of(w), thread + 1, threads);
    const size_t ldy = (size_t)panels_of(w) * LANES;
    const Target to = {y, ldy, add, step->token_scales};
    product(w, first, last, step->packed, w->inputs, 0, step->num_tokens, &to);
    if (step->num_segments && shrink_all(step, shape, layer, site, w->inputs, thread, threads)) {
#pragma omp barrier
        pack_narrow(step, shape, share(step->num_tokens, thread, threads),
                    share(step->num_tokens, thread + 1, threads));
        if (shape->kind != F32) {
#pragma omp barrier
        }
        expand_all(step, shape, layer, site, y, ldy, first, last);
    }
#pragma omp barrier
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

/* Keys lie in a block so that sixteen of them are multiplied at a time; bf16 ones in pairs. */
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
    bf16 *keys = (bf16 *)layer->keys + at, *values = (bf16 *)layer->values + at;
    for (int i = 0; i < dim; i++) keys[(i / 2) * 2 * LANES + slot * 2 + i % 2] = to_bf16(key[i]);
    for (int i = 0; i < dim; i++) values[slot * dim + i] = to_bf16(value[i]);
}

static void place_tokens(const Step *step, const Layer *layer, const Shape *shape, int begin,
                         int end) {
    const int dim = shape->dim, heads = shape->heads, key_heads = shape->key_heads;
    const size_t ld = (size_t)panels_of(&layer->qkv) * LANES;
    for (int token = begin; token < end; token++) {
        float *q = step->wide + token * ld, *k = q + heads * dim, *v = k + key_heads * dim;
        const float *cosines = step->cosines + (size_t)token * shape->rotary_dim;
        const float *sines = step->sines + (size_t)token * shape->rotary_dim;
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
}

/* Scores of one query against a block of sixteen keys. */
INLINE f32x16 score_block(const Shape *shape, const void *keys, size_t at, const float *q,
                          const bf16 *q_packed) {
    f32x16 even = {0}, odd = {0};
    if (shape->kind == F32) {
        const float *k = (const float *)keys + at;
        for (int i = 0; i < shape->dim; i += 2) {
            even += load16(k + i * LANES) * q[i];
            odd += load16(k + (i + 1) * LANES) * q[i + 1];
        }
        return even + odd;
    }
    const bf16 *k = (const bf16 *)keys + at;
    for (int i = 0; i < shape->dim; i += 2) {
        u32x16 pairs = *(const u32x16 *)(k + i * LANES);
        uint32_t pair;
        memcpy(&pair, q_packed + i, 4);
        u32x16 both = pair - (u32x16){0};
#ifdef __AVX512BF16__
        f32x16 *sum = i & 2 ? &odd : &even;
        *sum = (f32x16)_mm512_dpbf16_ps((__m512)*sum, (__m512bh)both, (__m512bh)pairs);
#else
        even += (f32x16)(both << 16) * (f32x16)(pairs << 16);
        odd += (f32x16)(both & 0xffff0000u) * (f32x16)(pairs & 0xffff0000u);
#endif
    }
    return even + odd;
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

INLINE f32x16 load_value(const Shape *shape, const void *values, size_t at) {
    return shape->kind == F32 ? load16((const float *)values + at)
                              : load16_bf16((const bf16 *)values + at);
}

/* Turn scores into weights, in place; give one over their sum. */
static float soften(float *scores, int places) {
    float most = -INFINITY;
    for (int i = 0; i < places; i++) most = scores[i] > most ? scores[i] : most;
    f32x16 sums = {0};
    for (int i = 0; i < places; i += LANES) {
        f32x16 weights = exp16(load16(scores + i) - most);
        weights = pick(load16(scores + i) == splat(-INFINITY), (f32x16){0}, weights);
        store16(scores + i, weights);
        sums += weights;
    }
    return 1.0f / sum16(sums);
}

/* All queries of one token that share a key head. */
static void attend(const Step *step, const Layer *layer, const Shape *shape, int token, int head,
                   float *scores, float *out) {
    const int dim = shape->dim, group = shape->heads / shape->key_heads;
    const size_t ld = (size_t)panels_of(&layer->qkv) * LANES;
    const float *q = step->wide + token * ld + (size_t)head * group * dim;
    const int end = step->place[token] + 1;
    const int32_t *blocks = step->table + (size_t)step->row[token] * step->max_blocks;
    const int num_blocks = (end + LANES - 1) / LANES;
    const size_t size = (size_t)dim * LANES, stride = shape->key_heads * size;
    float scaled[group * dim];
    bf16 packed[group * dim];
    for (int i = 0; i < group * dim; i++) packed[i] = to_bf16(scaled[i] = q[i] * shape->scaling);
    for (int b = 0; b < num_blocks; b++)
        for (int g = 0; g < group; g++) {
            f32x16 block = score_block(shape, layer->keys, blocks[b] * stride + head * size,
                                       scaled + g * dim, packed + g * dim);
            store16(scores + (size_t)g * step->max_places + b * LANES,
                    mask_block(step, token, b * LANES, end, block));
        }
    for (int g = 0; g < group; g++) {
        float *weights = scores + (size_t)g * step->max_places;
        const float factor = soften(weights, num_blocks * LANES);
        float *y = out + g * dim;
        for (int d = 0; d < dim; d += 4 * LANES) {
            const int vectors = (dim - d) / LANES < 4 ? (dim - d) / LANES : 4;
            f32x16 sum[4] = {{0}, {0}, {0}, {0}};
            for (int b = 0; b < num_blocks; b++) {
                const size_t at = blocks[b] * stride + head * size + d;
                const int slots = end - b * LANES < LANES ? end - b * LANES : LANES;
                for (int slot = 0; slot < slots; slot++) {
                    const f32x16 weight = splat(weights[b * LANES + slot]);
                    for (int v = 0; v < vectors; v++)
                        sum[v] += weight * load_value(shape, layer->values,
                                                      at + (size_t)slot * dim + v * LANES);
                }
            }
            for (int v = 0; v < vectors; v++) store16(y + d + v * LANES, sum[v] * factor);
        }
    }
}

static void attend_all(const Step *step, const Layer *layer, const Shape *shape) {
    const int thread = omp_get_thread_num();
    const int group = shape->heads / shape->key_heads, width = shape->heads * shape->dim;
    float *scores = step->scores + (size_t)thread * group * step->max_places;
    float out[width];
#pragma omp for schedule(dynamic, 1)
    for (int token = 0; token < step->num_tokens; token++) {
        for (int head = 0; head < shape->key_heads; head++)
            attend(step, layer, shape, token, head, scores, out + head * group * shape->dim);
        pack_operand(step, shape, token, out, width, step->num_segments > 0);
    }
}

static void gate(const Step *step, const Shape *shape, int begin, int end) {
    const int n = shape->intermediate;
    float y[n];
    for (int token = begin; token < end; token++) {
        const float *g = step->wide + (size_t)token * 2 * n, *up = g + n;
        for (int i = 0; i < n; i += LANES) {
            const f32x16 x = load16(g + i);
            store16(y + i, x / (exp16(-x) + 1.0f) * load16(up + i));
        }
        pack_operand(step, shape, token, y, n, step->num_segments > 0);
    }
}

/* ---- what is called from outside ----------------------------------------------------------- */

void loradock_layers(const Layer *layers, int num_layers, const Shape *shape, const Step *step) {
#pragma omp parallel num_threads(step->threads)
    {
        const int thread = omp_get_thread_num(), threads = omp_get_num_threads();
        const int begin = share(step->num_tokens, thread, threads);
        const int end = share(step->num_tokens, thread + 1, threads);
        for (int i = 0; i < num_layers; i++) {
            const Layer *layer = &layers[i];
            norm(step, shape, layer->attention_norm, begin, end);
#pragma omp barrier
            project(step, shape, &layer->qkv, i, QKV, step->wide, 0);
            place_tokens(step, layer, shape, begin, end);
#pragma omp barrier
            attend_all(step, layer, shape);
            project(step, shape, &layer->out, i, OUT, step->hidden, 1);
            norm(step, shape, layer->mlp_norm, begin, end);
#pragma omp barrier
            project(step, shape, &layer->gate_up, i, GATE_UP, step->wide, 0);
            gate(step, shape, begin, end);
#pragma omp barrier
            project(step, shape, &layer->down, i, DOWN, step->hidden, 1);
        }
    }
}

/* The final norm and the output head over the step's `hidden`; logits: [tokens, padded outputs]. */
void loradock_head(const float *weight, const Matrix *head, const Shape *shape, const Step *step,
                   float *logits) {
#pragma omp parallel num_threads(step->threads)
    {
        const int thread = omp_get_thread_num(), threads = omp_get_num_threads();
        norm(step, shape, weight, share(step->num_tokens, thread, threads),
             share(step->num_tokens, thread + 1, threads));
#pragma omp barrier
        project(step, shape, head, 0, 0, logits, 0);
    }
}
