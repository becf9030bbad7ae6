/* The forward pass of a decoder-only transformer on a CPU: new tokens of some sequences in, logits out.

   Owns the arithmetic, its threads, and how keys and values lie in the caller's buffers. Knows nothing of text, files or sampling.

   Every number of a row comes from the same operations in the same order, however many rows stand beside it, however they are
   cut into calls, and whichever thread does it. So a text is the same to the last bit alone and in a batch, with a cache and
   without, and on any number of threads.

   Letters: N rows (new tokens), C model width, H heads, K key/value heads, D head width, F feed-forward width, V vocabulary.
   Rows of numbers are padded to a multiple of LANES, which is how many numbers a register of the processor holds. */

#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* LANES: numbers in a register. BLOCKS: registers of outputs that ROWS rows share; their sums fill what registers there are. */
#if defined(__AVX512F__)
enum { LANES = 16, BLOCKS = 4 };
#elif defined(__AVX__)
enum { LANES = 8, BLOCKS = 2 };
#elif defined(__aarch64__)
enum { LANES = 4, BLOCKS = 4 };
#else
enum { LANES = 4, BLOCKS = 2 };
#endif
enum {
    ROWS = 6,
    CHUNK = 64,  /* outputs that a thread takes at once */
    QUERIES = 4, /* that read a key together */
    BESIDE = 4,  /* registers of keys that a query reads together */
    FEW = 8,                /* rows that every thread normalizes for itself rather than wait for the others */
    FETCHED_AHEAD = 1024,   /* bytes of weights */
    SPINS = 2000,           /* before a thread that waits for another gives its core away */
    SPINS_BETWEEN_CALLS = 20000,
};

/* ---- Vectors ------------------------------------------------------------------------------------------------------------ */

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4), aligned(4)));
typedef uint32_t uvec __attribute__((vector_size(LANES * 4), aligned(4)));
typedef uint16_t halves __attribute__((vector_size(LANES * 2), aligned(2)));
#ifdef __FLT16_MAX__
typedef _Float16 floats16 __attribute__((vector_size(LANES * 2), aligned(2)));
#endif

INLINE int padded(int n) { return (n + LANES - 1) / LANES * LANES; }
INLINE int least(int a, int b) { return a < b ? a : b; }
INLINE vec all(float x) { return x - (vec){}; }
INLINE vec where(ivec yes, vec a, vec b) { return (vec)((yes & (ivec)a) | (~yes & (ivec)b)); }
INLINE vec larger(vec a, vec b) { return where(a > b, a, b); }

/* a * b + c, rounded once where the processor can: said here, since a compiler left free to choose (-ffp-contract) fuses in one
   copy of a loop and not in another, and then a row's numbers depend on its company. */
INLINE vec multiply_add(vec a, vec b, vec c) {
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

INLINE float sum(vec v) {
    for (int n = LANES / 2; n; n /= 2)
        for (int i = 0; i < n; i++) v[i] += v[i + n];
    return v[0];
}

INLINE float largest(vec v) {
    float most = v[0];
    for (int i = 1; i < LANES; i++) most = v[i] > most ? v[i] : most;
    return most;
}

/* The first `n` numbers of x, zeros after them. */
INLINE vec first_of(const float *x, int n) {
    vec found = all(0);
    memcpy(&found, x, n * sizeof(float));
    return found;
}

/* e^x to a few units in the last place: 2^n e^r with |r| <= ln(2)/2, e^r by its Taylor polynomial. 0 where it would be denormal. */
INLINE vec exponential(vec x) {
    vec inside = larger(x, all(-87.0f));
    inside = where(inside > 88.0f, all(88.0f), inside);
    vec shifted = multiply_add(inside, all(1.44269504088896341f), all(12582912.0f)); /* + 1.5 * 2^23 leaves n in the lowest bits */
    vec n = shifted - 12582912.0f;
    vec r = multiply_add(n, all(2.12194440e-4f), multiply_add(n, all(-0.693359375f), inside)); /* ln(2) in two parts */
    vec p = all(1.0f / 5040);
    p = multiply_add(p, r, all(1.0f / 720));
    p = multiply_add(p, r, all(1.0f / 120));
    p = multiply_add(p, r, all(1.0f / 24));
    p = multiply_add(p, r, all(1.0f / 6));
    p = multiply_add(p, r, all(0.5f));
    p = multiply_add(p, r, all(1.0f));
    p = multiply_add(p, r, all(1.0f));
    vec power = (vec)(((uvec)shifted + 127) << 23);
    return where(x < -87.0f, all(0), p * power);
}

/* ---- What the caller describes: native.py has the same structures ------------------------------------------------------ */

enum type { FLOAT32, BFLOAT16, FLOAT16, INT8 };

typedef struct {        /* y = x W^T + bias */
    const void *weight; /* (outputs / LANES, inputs, LANES): null where there is no such matrix */
    const float *scale; /* (outputs), of INT8 */
    const float *bias;  /* (outputs), or null */
    int32_t outputs, inputs, type;
} matrix;

typedef struct {
    const float *weight, *bias; /* null where there is none */
} norm;

typedef struct {
    norm attention_norm, feed_forward_norm, query_norm, key_norm;
    matrix query, key, value, output, gate, up, down; /* without a gate: GELU */
    int64_t window;                                   /* how many positions a query sees, itself included; 0 for all */
} layer;

typedef struct {
    matrix embedding, position, head;
    norm last;
    const layer *layers;
    const float *cos, *sin; /* (context, D), the first half of sin negative; null for learned positions */
    float eps, score_scale;
    int32_t layer_count, width, heads, kv_heads, head_width, feed_forward, subtracts_mean;
} model;

typedef struct {                         /* Rows that follow each other in a sequence stand beside each other. */
    const int32_t *ids, *at, *sequence;  /* (N): of every row its token, its position, and whose it is */
    const int32_t *wanted;               /* the rows whose logits are asked for */
    float *const *keys, *const *values;  /* per layer (sequences, K, capacity / LANES, D, LANES) and (…, capacity, D) */
    float *logits;                       /* (wanted, V padded) */
    int32_t rows, wanted_rows, capacity; /* capacity: positions there is room for, a multiple of LANES */
} call;

/* ---- Products ---------------------------------------------------------------------------------------------------------- */

INLINE int size_of(int type) { return type == FLOAT32 ? 4 : type == INT8 ? 1 : 2; }

INLINE vec weights_at(const char *at, int type) {
    if (type == FLOAT32) return *(const vec *)at;
#if defined(__AVX512F__) /* GCC 12 would take these apart number by number */
    if (type == BFLOAT16) return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)at)), 16);
    if (type == INT8) return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)at)));
#elif defined(__AVX2__)
    if (type == BFLOAT16) return (vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)at)), 16);
    if (type == INT8) return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)at)));
#if defined(__F16C__)
    if (type == FLOAT16) return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const void *)at));
#endif
#endif
    if (type == BFLOAT16) return (vec)(__builtin_convertvector(*(const halves *)at, uvec) << 16);
#ifdef __FLT16_MAX__
    if (type == FLOAT16) return __builtin_convertvector(*(const floats16 *)at, vec);
#endif
    vec found;
    for (int i = 0; i < LANES; i++) found[i] = ((const int8_t *)at)[i];
    return found;
}

typedef struct {
    const float *x;
    float *y;
    int64_t x_stride, y_stride;
    int rows;
} rows;

/* `count` rows of x times `blocks` blocks of sixteen outputs: every sum is built input by input. */
INLINE void tile(const matrix *m, int block, int blocks, rows all_rows, int first, int count, int type) {
    const float *x = all_rows.x + first * all_rows.x_stride;
    float *y = all_rows.y + first * all_rows.y_stride;
    int64_t inputs = m->inputs, step = LANES * size_of(type);
    const char *weight = (const char *)m->weight + block * inputs * step;
    vec total[ROWS][BLOCKS];
    UNROLL for (int r = 0; r < count; r++)
        UNROLL for (int b = 0; b < blocks; b++) total[r][b] = all(0);
    for (int64_t i = 0; i < inputs; i++) {
        vec w[BLOCKS];
        UNROLL for (int b = 0; b < blocks; b++) {
            const char *at = weight + (b * inputs + i) * step;
            __builtin_prefetch(at + FETCHED_AHEAD);
            w[b] = weights_at(at, type);
        }
        UNROLL for (int r = 0; r < count; r++) {
            vec in = all(x[r * all_rows.x_stride + i]);
            UNROLL for (int b = 0; b < blocks; b++) total[r][b] = multiply_add(in, w[b], total[r][b]);
        }
    }
    UNROLL for (int b = 0; b < blocks; b++) {
        int o = (block + b) * LANES;
        UNROLL for (int r = 0; r < count; r++) {
            vec found = total[r][b];
            if (type == INT8) found *= *(const vec *)(m->scale + o);
            if (m->bias) found += *(const vec *)(m->bias + o);
            *(vec *)(y + r * all_rows.y_stride + b * LANES) = found;
        }
    }
}

INLINE void tiles(const matrix *m, int block, int blocks, rows all_rows, int type) {
    for (int r = 0; r < all_rows.rows; r += ROWS) switch (all_rows.rows - r) {
        case 1: tile(m, block, blocks, all_rows, r, 1, type); break;
        case 2: tile(m, block, blocks, all_rows, r, 2, type); break;
        case 3: tile(m, block, blocks, all_rows, r, 3, type); break;
        case 4: tile(m, block, blocks, all_rows, r, 4, type); break;
        case 5: tile(m, block, blocks, all_rows, r, 5, type); break;
        default: tile(m, block, blocks, all_rows, r, ROWS, type);
        }
}

INLINE void chunk_of(const matrix *m, int chunk, rows all_rows, int type) {
    int block = chunk * (CHUNK / LANES), last = least(block + CHUNK / LANES, padded(m->outputs) / LANES);
    for (; block + BLOCKS <= last; block += BLOCKS, all_rows.y += BLOCKS * LANES) tiles(m, block, BLOCKS, all_rows, type);
    for (; block < last; block++, all_rows.y += LANES)
        for (int r = 0; r < all_rows.rows; r++) tile(m, block, 1, all_rows, r, 1, type);
}

/* x (rows, inputs) -> y (rows, up to 64): the outputs of a chunk. */
static void product(const matrix *m, int chunk, rows all_rows) {
    switch (m->type) {
    case FLOAT32: chunk_of(m, chunk, all_rows, FLOAT32); break;
    case BFLOAT16: chunk_of(m, chunk, all_rows, BFLOAT16); break;
    case FLOAT16: chunk_of(m, chunk, all_rows, FLOAT16); break;
    default: chunk_of(m, chunk, all_rows, INT8);
    }
}

static int chunks(const matrix *m) { return (m->outputs + CHUNK - 1) / CHUNK; }
static int chunk_width(const matrix *m, int chunk) { return least(CHUNK, padded(m->outputs) - chunk * CHUNK); }

/* ---- Threads ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    const model *model;
    int threads; /* the caller's included */
    pthread_t *thread;
    pthread_mutex_t lock;
    pthread_cond_t woken;
    atomic_int turn, done, ending; /* of calls */
    atomic_int arrived, phase;     /* of the barrier */
    atomic_int next[3];            /* work not taken yet, of this region between barriers and its neighbours */
    const call *job;
    float *scratch;
    size_t scratch_size, own_size;
    float *stream, *normed, *sides, *mixed, *opened, *own;       /* parts of it, (N, ...); `own` is (threads, own_size) */
    int64_t width, key_at, value_at, sides_width, mixed_width, opened_width; /* padded */
} engine;

typedef struct {
    engine *e;
    const call *job;
    int region;
    float *own;
} worker;

static void wait_a_little(int waited) {
    if (waited > SPINS) sched_yield();
#if defined(__x86_64__)
    else __builtin_ia32_pause();
#endif
}

/* Everyone is here: what was written is there for all, and new work begins. */
static void meet(worker *w) {
    engine *e = w->e;
    int phase = atomic_load(&e->phase);
    w->region++;
    if (atomic_fetch_add(&e->arrived, 1) + 1 == e->threads) {
        atomic_store(&e->next[(w->region + 1) % 3], 0);
        atomic_store(&e->arrived, 0);
        atomic_fetch_add(&e->phase, 1);
    } else
        for (int waited = 0; atomic_load(&e->phase) == phase; waited++) wait_a_little(waited);
}

/* The number of a piece of this region's work that nobody has taken. */
INLINE int claim(worker *w) { return atomic_fetch_add(&w->e->next[w->region % 3], 1); }

/* ---- The parts of the network ------------------------------------------------------------------------------------------- */

/* (x - mean) / sqrt(mean of squares + eps) * weight + bias; an RMS norm takes no mean. */
static void normalize(const model *m, const float *x, int width, norm n, float *y) {
    vec squares = all(0);
    float mean = 0;
    if (m->subtracts_mean) {
        vec total = all(0);
        for (int i = 0; i < width; i += LANES) total += first_of(x + i, least(LANES, width - i));
        mean = sum(total) / width;
    }
    for (int i = 0; i < width; i += LANES) {
        int count = least(LANES, width - i);
        vec v = first_of(x + i, count);
        for (int j = 0; m->subtracts_mean && j < count; j++) v[j] -= mean;
        squares = multiply_add(v, v, squares);
    }
    float rate = 1 / sqrtf(sum(squares) / width + m->eps);
    for (int i = 0; i < width; i++) y[i] = (x[i] - mean) * rate * n.weight[i] + (n.bias ? n.bias[i] : 0);
}

/* The stream of all rows after a norm. */
static const float *normalized(worker *w, norm n) {
    engine *e = w->e;
    int alone = w->job->rows <= FEW, width = e->model->width;
    float *to = alone ? w->own : e->normed;
    for (int r = alone ? 0 : claim(w); r < w->job->rows; r = alone ? r + 1 : claim(w))
        normalize(e->model, e->stream + r * e->width, width, n, to + r * e->width);
    if (!alone) meet(w);
    return to;
}

/* Queries, keys and values of all rows, side by side. */
static void project(worker *w, const layer *l, const float *x) {
    engine *e = w->e;
    const matrix *parts[3] = {&l->query, &l->key, &l->value};
    int64_t starts[3] = {0, e->key_at, e->value_at};
    int ends[3] = {chunks(parts[0]), chunks(parts[0]) + chunks(parts[1]), chunks(parts[0]) + chunks(parts[1]) + chunks(parts[2])};
    for (int piece; (piece = claim(w)) < ends[2];) {
        int part = (piece >= ends[0]) + (piece >= ends[1]), chunk = piece - (part ? ends[part - 1] : 0);
        float *y = e->sides + starts[part] + chunk * CHUNK;
        product(parts[part], chunk, (rows){x, y, e->width, e->sides_width, w->job->rows});
    }
    meet(w);
}

/* Position p turns the pair (i, i + D/2). */
static void rotate(const model *m, float *x, int at) {
    int half = m->head_width / 2;
    const float *cos = m->cos + (int64_t)at * m->head_width, *sin = m->sin + (int64_t)at * m->head_width;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] + b * sin[i];
        x[i + half] = b * cos[i + half] + a * sin[i + half];
    }
}

static void norm_and_rotate(const model *m, norm n, float *heads, int count, int at) {
    for (int h = 0; h < count; h++) {
        float *head = heads + h * m->head_width;
        if (n.weight) normalize(m, head, m->head_width, n, head);
        if (m->cos) rotate(m, head, at);
    }
}

INLINE int64_t start_of(const model *m, const call *job, int r, int kv_head) {
    return ((int64_t)job->sequence[r] * m->kv_heads + kv_head) * job->capacity * m->head_width;
}

/* Norm and rotation of queries and keys; keys and values into the caller's buffers. */
static void remember(worker *w, const layer *l, int number) {
    engine *e = w->e;
    const model *m = e->model;
    const call *job = w->job;
    int D = m->head_width;
    for (int r; (r = claim(w)) < job->rows;) {
        float *side = e->sides + r * e->sides_width;
        int64_t at = job->at[r];
        norm_and_rotate(m, l->query_norm, side, m->heads, at);
        norm_and_rotate(m, l->key_norm, side + e->key_at, m->kv_heads, at);
        for (int k = 0; k < m->kv_heads; k++) {
            float *keys = job->keys[number] + start_of(m, job, r, k) + at / LANES * D * LANES + at % LANES;
            float *values = job->values[number] + start_of(m, job, r, k) + at * D;
            for (int d = 0; d < D; d++) keys[d * LANES] = side[e->key_at + k * D + d];
            memcpy(values, side + e->value_at + k * D, D * sizeof(float));
        }
    }
    meet(w);
}

typedef struct {
    const float *query;     /* (D) */
    float *weights, *mixed; /* (capacity), (D) */
    int at;
} question;

/* The blocks of positions that a question looks at. */
typedef struct {
    int first, last;
    int64_t window;
} span;

/* The oldest position that a query at `at` sees. */
INLINE int oldest_of(int64_t window, int at) { return window && at >= window ? (int)(at - window + 1) : 0; }

/* Scores of `count` questions against the keys of blocks `first` to `last`, `beside` blocks at a time. */
INLINE void score(const model *m, const float *keys, const question *asked, int count, int first, int last, int beside) {
    int D = m->head_width;
    for (int b = first; b + beside <= last; b += beside) {
        vec total[QUERIES][BESIDE];
        UNROLL for (int q = 0; q < count; q++)
            UNROLL for (int s = 0; s < beside; s++) total[q][s] = all(0);
        for (int d = 0; d < D; d++) {
            vec key[BESIDE];
            UNROLL for (int s = 0; s < beside; s++) key[s] = *(const vec *)(keys + ((int64_t)(b + s) * D + d) * LANES);
            UNROLL for (int q = 0; q < count; q++)
                UNROLL for (int s = 0; s < beside; s++) total[q][s] = multiply_add(all(asked[q].query[d]), key[s], total[q][s]);
        }
        UNROLL for (int q = 0; q < count; q++)
            UNROLL for (int s = 0; s < beside; s++) *(vec *)(asked[q].weights + (b + s) * LANES) = total[q][s] * m->score_scale;
    }
}

/* Scores to weights: the softmax over the positions that the question may look at, exactly 0 elsewhere. */
static void soften(const question *asked, span s) {
    ivec lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    int oldest = oldest_of(s.window, asked->at);
    vec most = all(-INFINITY), total = all(0);
    for (int b = s.first; b < s.last; b++) {
        vec *scores = (vec *)(asked->weights + b * LANES);
        ivec at = lane + b * LANES;
        *scores = where((at <= asked->at) & (at >= oldest), *scores, all(-INFINITY));
        most = larger(most, *scores);
    }
    float top = largest(most);
    for (int b = s.first; b < s.last; b++) {
        vec *scores = (vec *)(asked->weights + b * LANES);
        *scores = exponential(*scores - top);
        total += *scores;
    }
    float share = 1 / sum(total);
    for (int b = s.first; b < s.last; b++) *(vec *)(asked->weights + b * LANES) *= share;
}

/* Sums of the values by their weights, position by position; what lies beyond a question has the weight 0. */
INLINE void mix(const model *m, const float *values, const question *asked, int count, int first, int end) {
    int D = m->head_width, d = 0;
    for (; d + LANES <= D; d += LANES) {
        vec total[QUERIES];
        UNROLL for (int q = 0; q < count; q++) total[q] = all(0);
        for (int64_t s = first; s < end; s++) {
            vec value = *(const vec *)(values + s * D + d);
            UNROLL for (int q = 0; q < count; q++) total[q] = multiply_add(all(asked[q].weights[s]), value, total[q]);
        }
        UNROLL for (int q = 0; q < count; q++) *(vec *)(asked[q].mixed + d) = total[q];
    }
    if (d == D) return;
    vec total[QUERIES]; /* number by number, a compiler might add up in other ways for other lengths */
    UNROLL for (int q = 0; q < count; q++) total[q] = all(0);
    for (int64_t s = first; s < end; s++) {
        vec value = first_of(values + s * D + d, D - d);
        UNROLL for (int q = 0; q < count; q++) total[q] = multiply_add(all(asked[q].weights[s]), value, total[q]);
    }
    for (int q = 0; q < count; q++) memcpy(asked[q].mixed + d, &total[q], (D - d) * sizeof(float));
}

INLINE void answer(const model *m, const float *keys, const float *values, const question *asked, int count, span s) {
    int beside = count == 1 ? BESIDE : 2, odd = s.first + (s.last - s.first) / beside * beside;
    score(m, keys, asked, count, s.first, odd, beside);
    score(m, keys, asked, count, odd, s.last, 1);
    for (int q = 0; q < count; q++) soften(&asked[q], s);
    mix(m, values, asked, count, s.first * LANES, least(s.last * LANES, asked[count - 1].at + 1));
}

/* How many rows from `r` on, up to QUERIES, follow each other in one sequence. */
static int following(const call *job, int r) {
    int n = 1;
    while (n < QUERIES && r + n < job->rows && job->sequence[r + n] == job->sequence[r] && job->at[r + n] == job->at[r] + n) n++;
    return n;
}

/* The attention of `n` rows that follow each other, for the heads that share a key/value head. */
static void attend_rows(worker *w, const layer *l, int number, int r, int n, int kv_head) {
    engine *e = w->e;
    const model *m = e->model;
    const call *job = w->job;
    int D = m->head_width, group = m->heads / m->kv_heads;
    const float *keys = job->keys[number] + start_of(m, job, r, kv_head), *values = job->values[number] + start_of(m, job, r, kv_head);
    span s = {oldest_of(l->window, job->at[r]) / LANES, (job->at[r + n - 1] + LANES) / LANES, l->window};
    for (int h = kv_head * group; h < (kv_head + 1) * group; h++) {
        question asked[QUERIES];
        for (int q = 0; q < n; q++)
            asked[q] = (question){e->sides + (r + q) * e->sides_width + h * D, w->own + (int64_t)q * job->capacity,
                                  e->mixed + (r + q) * e->mixed_width + h * D, job->at[r + q]};
        switch (n) {
        case 1: answer(m, keys, values, asked, 1, s); break;
        case 2: answer(m, keys, values, asked, 2, s); break;
        case 3: answer(m, keys, values, asked, 3, s); break;
        default: answer(m, keys, values, asked, QUERIES, s);
        }
    }
}

static void attend(worker *w, const layer *l, int number) {
    int mine = claim(w), piece = 0, kv_heads = w->e->model->kv_heads;
    for (int r = 0, n; r < w->job->rows; r += n, piece += kv_heads) {
        n = following(w->job, r);
        for (; mine < piece + kv_heads; mine = claim(w)) attend_rows(w, l, number, r, n, mine - piece);
    }
    meet(w);
}

/* The stream gains x times a matrix. */
static void add_product(worker *w, const matrix *m, const float *x, int64_t x_stride) {
    engine *e = w->e;
    for (int chunk; (chunk = claim(w)) < chunks(m);) {
        product(m, chunk, (rows){x, w->own, x_stride, CHUNK, w->job->rows});
        for (int r = 0; r < w->job->rows; r++)
            for (int o = 0; o < chunk_width(m, chunk); o += LANES)
                *(vec *)(e->stream + r * e->width + chunk * CHUNK + o) += *(vec *)(w->own + r * CHUNK + o);
    }
    meet(w);
}

/* silu(gate) * up; without a gate gelu(up) by its tanh approximation, u (1 + tanh(t)) / 2 = u / (1 + e^(-2t)). */
static void open_up(worker *w, const layer *l, const float *x) {
    engine *e = w->e;
    float *gates = w->own + FEW * e->width;
    for (int chunk; (chunk = claim(w)) < chunks(&l->up);) {
        float *opened = e->opened + chunk * CHUNK;
        product(&l->up, chunk, (rows){x, opened, e->width, e->opened_width, w->job->rows});
        if (l->gate.weight) product(&l->gate, chunk, (rows){x, gates, e->width, CHUNK, w->job->rows});
        for (int r = 0; r < w->job->rows; r++)
            for (int o = 0; o < chunk_width(&l->up, chunk); o += LANES) {
                vec *up = (vec *)(opened + r * e->opened_width + o), u = *up;
                vec t = l->gate.weight ? *(vec *)(gates + r * CHUNK + o) : 1.5957691216057308f * (u + 0.044715f * u * u * u);
                vec by = l->gate.weight ? t * u : u;
                *up = by / (1.0f + exponential(-t));
            }
    }
    meet(w);
}

static float number_at(const matrix *m, int64_t output, int64_t input) {
    int64_t at = (output / LANES * m->inputs + input) * LANES;
    vec found = weights_at((const char *)m->weight + at * size_of(m->type), m->type);
    return found[output % LANES] * (m->type == INT8 ? m->scale[output] : 1);
}

/* The embedding of every row's token, and of its position where positions are learned. */
static void embed(worker *w) {
    engine *e = w->e;
    const model *m = e->model;
    for (int r; (r = claim(w)) < w->job->rows;) {
        float *x = e->stream + r * e->width;
        for (int i = 0; i < m->width; i++) {
            x[i] = number_at(&m->embedding, w->job->ids[r], i);
            if (m->position.weight) x[i] += number_at(&m->position, w->job->at[r], i);
        }
    }
    meet(w);
}

/* Logits of the rows that are asked for. */
static void unembed(worker *w) {
    engine *e = w->e;
    const model *m = e->model;
    const call *job = w->job;
    for (int r; (r = claim(w)) < job->wanted_rows;)
        normalize(m, e->stream + job->wanted[r] * e->width, m->width, m->last, e->normed + r * e->width);
    meet(w);
    for (int chunk; (chunk = claim(w)) < chunks(&m->head);)
        product(&m->head, chunk, (rows){e->normed, job->logits + chunk * CHUNK, e->width, padded(m->head.outputs), job->wanted_rows});
    meet(w);
}

static void take_part(engine *e, int me) {
    const model *m = e->model;
    worker w = {e, e->job, 0, e->own + me * e->own_size};
    embed(&w);
    for (int number = 0; number < m->layer_count; number++) {
        const layer *l = &m->layers[number];
        project(&w, l, normalized(&w, l->attention_norm));
        remember(&w, l, number);
        attend(&w, l, number);
        add_product(&w, &l->output, e->mixed, e->mixed_width);
        open_up(&w, l, normalized(&w, l->feed_forward_norm));
        add_product(&w, &l->down, e->opened, e->opened_width);
    }
    if (e->job->wanted_rows) unembed(&w);
}

/* ---- What the caller calls ---------------------------------------------------------------------------------------------- */

typedef struct {
    engine *e;
    int me;
} birth;

static void *live(void *given) {
    birth me = *(birth *)given;
    engine *e = me.e;
    free(given);
    for (int turn = 0;;) {
        for (int waited = 0; atomic_load(&e->turn) == turn && waited < SPINS_BETWEEN_CALLS; waited++) wait_a_little(0);
        pthread_mutex_lock(&e->lock);
        while (atomic_load(&e->turn) == turn) pthread_cond_wait(&e->woken, &e->lock);
        pthread_mutex_unlock(&e->lock);
        turn++;
        if (atomic_load(&e->ending)) return NULL;
        take_part(e, me.me);
        atomic_fetch_add(&e->done, 1);
    }
}

static void wake(engine *e) {
    pthread_mutex_lock(&e->lock);
    atomic_fetch_add(&e->turn, 1);
    pthread_cond_broadcast(&e->woken);
    pthread_mutex_unlock(&e->lock);
}

EXPORT void engine_free(engine *e) {
    atomic_store(&e->ending, 1);
    wake(e);
    for (int t = 0; t < e->threads - 1; t++) pthread_join(e->thread[t], NULL);
    free(e->thread);
    free(e->scratch);
    free(e);
}

/* An engine of at most `threads` threads, the caller's included; null when there is no memory. */
EXPORT engine *engine_new(const model *m, int threads) {
    engine *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->model = m;
    e->threads = 1;
    e->width = padded(m->width);
    e->key_at = padded(m->heads * m->head_width);
    e->value_at = e->key_at + padded(m->kv_heads * m->head_width);
    e->sides_width = e->value_at + padded(m->kv_heads * m->head_width);
    e->mixed_width = padded(m->heads * m->head_width);
    e->opened_width = padded(m->feed_forward);
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->woken, NULL);
    e->thread = calloc(threads, sizeof *e->thread);
    while (e->thread && e->threads < threads) {
        birth *given = malloc(sizeof *given);
        if (!given) break;
        *given = (birth){e, e->threads};
        if (pthread_create(&e->thread[e->threads - 1], NULL, live, given)) {
            free(given);
            break;
        }
        e->threads++;
    }
    return e;
}

static int make_room(engine *e, const call *job) {
    size_t n = job->rows, attention = QUERIES * (size_t)job->capacity, products = FEW * e->width + n * CHUNK;
    e->own_size = attention > products ? attention : products;
    size_t needed = n * (2 * e->width + e->sides_width + e->mixed_width + e->opened_width) + e->own_size * e->threads;
    if (needed > e->scratch_size) {
        free(e->scratch);
        e->scratch = aligned_alloc(64, needed * sizeof(float));
        e->scratch_size = e->scratch ? needed : 0;
        if (!e->scratch) return -1;
    }
    e->stream = e->scratch;
    e->normed = e->stream + n * e->width;
    e->sides = e->normed + n * e->width;
    e->mixed = e->sides + n * e->sides_width;
    e->opened = e->mixed + n * e->mixed_width;
    e->own = e->opened + n * e->opened_width;
    return 0;
}

/* How many outputs, and keys, lie side by side. */
EXPORT int lanes(void) { return LANES; }

/* Whether this compiler knows numbers of sixteen bits. */
EXPORT int reads_float16(void) {
#ifdef __FLT16_MAX__
    return 1;
#else
    return 0;
#endif
}

/* Reads the rows of a call: their keys and values, and the logits asked for, into the caller's buffers.
   0, or -1 when there is no memory. */
EXPORT int engine_run(engine *e, const call *job) {
    if (make_room(e, job)) return -1;
    e->job = job;
    for (int i = 0; i < 3; i++) atomic_store(&e->next[i], 0);
    atomic_store(&e->done, 0);
    if (e->threads > 1) wake(e);
    take_part(e, 0);
    for (int waited = 0; atomic_load(&e->done) < e->threads - 1; waited++) wait_a_little(waited);
    return 0;
}
