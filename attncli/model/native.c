/* The forward pass of a transformer on a CPU: a decoder, or an encoder and a decoder with cross-attention. A call reads new tokens of
   some sequences and writes their logits, or encodes source texts and writes the keys and values that the decoder attends to.

   This file contains the arithmetic and its threads, and defines the layout of keys and values in the caller's buffers. It
   handles neither text nor files nor sampling. native.py packs the weights, allocates the cache and calls engine_run.

   Reproducibility. Every number of a row is computed by a fixed sequence of operations. The sequence does not depend on the number
   of rows in the batch, on how a text is split into batches, or on the thread. So the logits of a text are bit-identical alone and
   in a batch, with a cache and without, and on any number of threads.

   Encoder. A row of an encoder attends to every token of its source, so a call contains whole sources. There is no padding, because
   each row has the address of its own source. While a source is encoded, its buffer holds the keys and values of one encoder layer;
   they are then replaced by those of cross-attention.

   Threads. An engine has `threads` workers. The thread that calls engine_run is worker 0; start_threads creates the others once.
   The forward pass is a sequence of regions with a barrier after each. The work of a region is split into items: one row, one chunk
   of a matrix's outputs, or one key/value head of a few rows. Workers claim items from an atomic counter, so a worker on a slow core
   claims fewer items. An item writes numbers that no other item of its region reads or writes, and reads only results of earlier
   regions, so the barrier is the only synchronization. Each sum is computed within one item, so the result depends neither on the
   number of threads nor on which worker claims an item.
     Memory. The engine owns `residual`, `normed`, `qkv`, `attended` and `hidden`; items write disjoint parts of them. Each worker
   owns a part of `thread_scratch`, for attention weights, the outputs of one chunk, and the normalized rows of a small batch.
     Waiting. At a barrier, a worker spins; after SPINS_BEFORE_YIELD turns, it also yields its core at each turn. It does not sleep
   there, because a region takes microseconds. Between two calls of engine_run, a worker spins for SPINS_BEFORE_SLEEP turns and then
   sleeps on a condition variable, so an idle engine uses no processor time. engine_run returns when every worker has finished the
   forward pass; no worker reads the caller's buffers afterwards.

   Letters: N rows (new tokens), S tokens of a source, C model width, H heads, K key/value heads, D head width, F feed-forward width,
   V vocabulary.
   Rows of numbers are padded to a multiple of LANES, the number of floats in one register of the processor. */

#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

/* TILE_BLOCKS: registers of outputs in a tile. A tile's TILE_ROWS x TILE_BLOCKS sums fit the registers. */
#if defined(__AVX512F__) || defined(__aarch64__)
enum { TILE_BLOCKS = 4 };
#else
enum { TILE_BLOCKS = 2 };
#endif
enum {
    TILE_ROWS = 6,
    CHUNK = 64,                 /* outputs of a matrix that one item computes */
    TILE_QUERIES = 4,           /* queries that share one load of each key */
    TILE_KEY_BLOCKS = 4,        /* registers of keys that are loaded at once for one query */
    REPLICATED_NORM_ROWS = 8,   /* up to this many rows, each worker normalizes every row: cheaper than a barrier */
    PREFETCH_BYTES = 1024,      /* the distance from the weights in use to the prefetched weights */
    ALIGNMENT = 64,             /* bytes in a cache line */
    SPINS_BEFORE_YIELD = 2000,  /* at a barrier */
    SPINS_BEFORE_SLEEP = 20000, /* between calls */
};

/* ---- Structures that native.py also declares; a test compares its declarations with `struct_fields` below ------------------ */

enum dtype { FLOAT32, BFLOAT16, FLOAT16, INT8 };
enum activation { SILU, GELU_TANH, GELU_ERF, RELU }; /* in the order of _ACTIVATIONS in native.py */

typedef struct {        /* y = x W^T + bias */
    const void *weight; /* (outputs / LANES, inputs, LANES); null if the network has no such matrix */
    const float *scale; /* (outputs), for INT8 */
    const float *bias;  /* (outputs), or null */
    int32_t outputs, inputs, dtype;
} matrix;

typedef struct {
    const float *weight, *bias; /* null if absent */
} norm;

typedef struct { /* Self-attention or cross-attention. */
    norm norm, query_norm, key_norm;
    matrix query, key, value, output; /* query.weight is null if the layer has no cross-attention */
} attention;

typedef struct {
    attention self, cross;
    norm feed_forward_norm;
    matrix gate, up, down; /* gate.weight is null if the feed-forward part has no gate */
    int64_t window;        /* positions that a query attends to, including its own; 0: all */
} layer;

typedef struct { /* A decoder or an encoder. */
    matrix position;                 /* learned positions (context, C), or null */
    norm embedding_norm, final_norm; /* null if absent */
    const float *distance_bias;      /* relative positions (H, 2 P), or null; element P + k - q is the bias of key k for query q */
    int64_t bias_positions;          /* P, a multiple of LANES */
    const layer *layers;
    int64_t layer_count;
} stack;

typedef struct {
    matrix embedding, unembedding;
    stack decoder, encoder;
    const float *cos, *sin;  /* rotary positions (positions, D), the first half of sin negated; or null */
    const float *sinusoids;  /* sinusoidal positions (positions, C), or null */
    float eps, score_scale, embedding_scale;
    int32_t width, heads, kv_heads, head_width, feed_forward, subtracts_mean, activation;
    int32_t post_norm; /* whether norms are after the residual sums instead of before attention and feed-forward */
} model;

typedef struct { /* New tokens of some sequences, or whole sources. The rows of one sequence or source are adjacent and in order. */
    const int32_t *ids, *positions, *sequences; /* (N): the token, position and sequence of each row */
    const int32_t *source_lengths;              /* (N): S, the number of tokens of the row's source */
    const int32_t *logit_rows;                  /* (logit_row_count): the rows whose logits are returned */
    float *const *keys, *const *values;         /* per layer (sequences, K, capacity / LANES, D, LANES) and (…, capacity, D) */
    float *const *sources; /* (N): the buffer of the row's source, (decoder layers, 2, K, S padded, D); null without an encoder */
    float *logits;         /* (logit_row_count, V padded) */
    int32_t row_count, logit_row_count, capacity; /* capacity: positions in `keys` and `values`, a multiple of LANES */
    int32_t encodes;                              /* whether the encoder reads the rows, which are sources without a sequence */
} batch;

typedef struct {
    const char *structure, *field; /* an empty `field` describes the whole structure */
    int64_t offset, size;
    char kind; /* i: int32_t, l: int64_t, f: float, p: pointer, s: structure */
} struct_field;

#define KIND(value) _Generic((value), int32_t: 'i', int64_t: 'l', float: 'f', \
    matrix: 's', norm: 's', attention: 's', stack: 's', default: 'p')
#define FIELD(s, f) {#s, #f, offsetof(s, f), sizeof(((s *)0)->f), KIND(((s *)0)->f)}
#define WHOLE(s) {#s, "", 0, sizeof(s), 's'}

EXPORT const struct_field struct_fields[] = {
    FIELD(matrix, weight), FIELD(matrix, scale), FIELD(matrix, bias), FIELD(matrix, outputs), FIELD(matrix, inputs),
    FIELD(matrix, dtype), WHOLE(matrix),
    FIELD(norm, weight), FIELD(norm, bias), WHOLE(norm),
    FIELD(attention, norm), FIELD(attention, query_norm), FIELD(attention, key_norm), FIELD(attention, query), FIELD(attention, key),
    FIELD(attention, value), FIELD(attention, output), WHOLE(attention),
    FIELD(layer, self), FIELD(layer, cross), FIELD(layer, feed_forward_norm), FIELD(layer, gate), FIELD(layer, up),
    FIELD(layer, down), FIELD(layer, window), WHOLE(layer),
    FIELD(stack, position), FIELD(stack, embedding_norm), FIELD(stack, final_norm), FIELD(stack, distance_bias),
    FIELD(stack, bias_positions), FIELD(stack, layers), FIELD(stack, layer_count), WHOLE(stack),
    FIELD(model, embedding), FIELD(model, unembedding), FIELD(model, decoder), FIELD(model, encoder), FIELD(model, cos),
    FIELD(model, sin), FIELD(model, sinusoids), FIELD(model, eps), FIELD(model, score_scale), FIELD(model, embedding_scale),
    FIELD(model, width), FIELD(model, heads), FIELD(model, kv_heads), FIELD(model, head_width), FIELD(model, feed_forward),
    FIELD(model, subtracts_mean), FIELD(model, activation), FIELD(model, post_norm), WHOLE(model),
    FIELD(batch, ids), FIELD(batch, positions), FIELD(batch, sequences), FIELD(batch, source_lengths), FIELD(batch, logit_rows),
    FIELD(batch, keys), FIELD(batch, values), FIELD(batch, sources), FIELD(batch, logits), FIELD(batch, row_count),
    FIELD(batch, logit_row_count), FIELD(batch, capacity), FIELD(batch, encodes), WHOLE(batch),
};
EXPORT const int struct_field_count = sizeof struct_fields / sizeof *struct_fields;

/* ---- Matrix products ---------------------------------------------------------------------------------------------------- */

INLINE int dtype_size(int dtype) { return dtype == FLOAT32 ? 4 : dtype == INT8 ? 1 : 2; }

/* LANES weights of the given dtype, converted to floats. */
INLINE vec load_weights(const char *at, int dtype) {
    if (dtype == FLOAT32) return *(const vec *)at;
#if defined(__AVX512F__) /* without the intrinsics, GCC 12 converts one number at a time */
    if (dtype == BFLOAT16) return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)at)), 16);
    if (dtype == INT8) return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)at)));
#elif defined(__AVX2__)
    if (dtype == BFLOAT16) return (vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)at)), 16);
    if (dtype == INT8) return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)at)));
#if defined(__F16C__)
    if (dtype == FLOAT16) return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const void *)at));
#endif
#endif
    if (dtype == BFLOAT16) return (vec)(__builtin_convertvector(*(const vec_uint16 *)at, vec_uint) << 16);
#ifdef __FLT16_MAX__
    if (dtype == FLOAT16) return __builtin_convertvector(*(const vec_float16 *)at, vec);
#endif
    vec loaded;
    for (int i = 0; i < LANES; i++) loaded[i] = ((const int8_t *)at)[i];
    return loaded;
}

typedef struct { /* The rows that a product reads and writes. */
    const float *x;
    float *y;
    int64_t x_stride, y_stride; /* floats from one row to the next */
    int row_count;
} operands;

/* Multiplies `rows` rows of x by `blocks` blocks of LANES outputs, beginning with block `block`. Inputs are added in order. `rows`,
   `blocks` and `dtype` are constants, so the compiler unrolls the tile and keeps all its sums in registers. */
INLINE void multiply_tile(const matrix *m, int block, int blocks, operands io, int first_row, int rows, int dtype) {
    const float *x = io.x + first_row * io.x_stride;
    float *y = io.y + first_row * io.y_stride;
    int64_t inputs = m->inputs, step = LANES * dtype_size(dtype);
    const char *weight = (const char *)m->weight + block * inputs * step;
    vec total[TILE_ROWS][TILE_BLOCKS];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int b = 0; b < blocks; b++) total[r][b] = broadcast(0);
    for (int64_t i = 0; i < inputs; i++) {
        vec w[TILE_BLOCKS];
        UNROLL for (int b = 0; b < blocks; b++) {
            const char *at = weight + (b * inputs + i) * step;
            __builtin_prefetch(at + PREFETCH_BYTES);
            w[b] = load_weights(at, dtype);
        }
        UNROLL for (int r = 0; r < rows; r++) {
            vec input = broadcast(x[r * io.x_stride + i]);
            UNROLL for (int b = 0; b < blocks; b++) total[r][b] = multiply_add(input, w[b], total[r][b]);
        }
    }
    UNROLL for (int b = 0; b < blocks; b++) {
        int o = (block + b) * LANES;
        UNROLL for (int r = 0; r < rows; r++) {
            vec result = total[r][b];
            if (dtype == INT8) result *= *(const vec *)(m->scale + o);
            if (m->bias) result += *(const vec *)(m->bias + o);
            *(vec *)(y + r * io.y_stride + b * LANES) = result;
        }
    }
}

/* Multiplies all rows by `blocks` blocks of outputs, at most TILE_ROWS rows at a time. The tiles have about equally many rows: a tile
   of one or two rows would have too few independent sums to keep the processor busy. */
INLINE void multiply_blocks(const matrix *m, int block, int blocks, operands io, int dtype) {
    int tiles = (io.row_count + TILE_ROWS - 1) / TILE_ROWS;
    for (int r = 0, rows; r < io.row_count; r += rows, tiles--) switch (rows = (io.row_count - r + tiles - 1) / tiles) {
        case 1: multiply_tile(m, block, blocks, io, r, 1, dtype); break;
        case 2: multiply_tile(m, block, blocks, io, r, 2, dtype); break;
        case 3: multiply_tile(m, block, blocks, io, r, 3, dtype); break;
        case 4: multiply_tile(m, block, blocks, io, r, 4, dtype); break;
        case 5: multiply_tile(m, block, blocks, io, r, 5, dtype); break;
        default: multiply_tile(m, block, blocks, io, r, TILE_ROWS, dtype);
        }
}

INLINE void multiply_chunk_as(const matrix *m, int chunk, operands io, int dtype) {
    int block = chunk * (CHUNK / LANES), end = min_int(block + CHUNK / LANES, padded(m->outputs) / LANES);
    for (; block + TILE_BLOCKS <= end; block += TILE_BLOCKS, io.y += TILE_BLOCKS * LANES)
        multiply_blocks(m, block, TILE_BLOCKS, io, dtype);
    for (; block < end; block++, io.y += LANES)
        for (int r = 0; r < io.row_count; r++) multiply_tile(m, block, 1, io, r, 1, dtype);
}

/* x (rows, inputs) -> y (rows, CHUNK or fewer): computes the outputs of one chunk of a matrix. */
static void multiply_chunk(const matrix *m, int chunk, operands io) {
    switch (m->dtype) {
    case FLOAT32: multiply_chunk_as(m, chunk, io, FLOAT32); break;
    case BFLOAT16: multiply_chunk_as(m, chunk, io, BFLOAT16); break;
    case FLOAT16: multiply_chunk_as(m, chunk, io, FLOAT16); break;
    default: multiply_chunk_as(m, chunk, io, INT8);
    }
}

static int chunk_count(const matrix *m) { return (m->outputs + CHUNK - 1) / CHUNK; }
static int chunk_width(const matrix *m, int chunk) { return min_int(CHUNK, padded(m->outputs) - chunk * CHUNK); }

/* ---- Threads ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    const model *model;
    int threads; /* number of workers, including the caller's thread */
    pthread_t *thread_ids;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_int call_number, finished, stopping; /* begun calls; threads that finished the current call; whether to end */
    atomic_int barrier_arrived, barrier_phase;
    atomic_int next_item[3]; /* the next unclaimed item of the current, the previous and the next region */
    const batch *batch;
    void *allocated; /* one allocation; `scratch` is its first address that is a multiple of ALIGNMENT */
    float *scratch;  /* the pointers below point into it */
    size_t scratch_size, thread_scratch_size;
    float *residual, *normed, *qkv, *attended, *hidden; /* (N, ...) */
    float *thread_scratch;                              /* (threads, thread_scratch_size) */
    int64_t weights_stride; /* floats between the attention weights of adjacent queries in a worker's scratch */
    int64_t width, key_offset, value_offset, qkv_width, attended_width, hidden_width; /* padded; the offsets are within a row of qkv */
} engine;

typedef struct {
    engine *engine;
    const batch *batch;
    int region;     /* number of barriers that this worker has passed in this call */
    float *scratch; /* this worker's part of thread_scratch */
} worker;

static void spin_or_yield(int turns) {
    if (turns > SPINS_BEFORE_YIELD) sched_yield();
#if defined(__x86_64__)
    else __builtin_ia32_pause();
#endif
}

/* Waits until all workers have arrived. Their results are then visible to all workers, and the items of the next region can be
   claimed. The last worker to arrive resets the counter of the region after the next: no worker uses it before the next barrier. */
static void barrier(worker *w) {
    engine *e = w->engine;
    int phase = atomic_load(&e->barrier_phase);
    w->region++;
    if (atomic_fetch_add(&e->barrier_arrived, 1) + 1 == e->threads) {
        atomic_store(&e->next_item[(w->region + 1) % 3], 0);
        atomic_store(&e->barrier_arrived, 0);
        atomic_fetch_add(&e->barrier_phase, 1);
    } else
        for (int turns = 0; atomic_load(&e->barrier_phase) == phase; turns++) spin_or_yield(turns);
}

/* Claims the next item of this region and returns its number. The numbers continue beyond the last item. */
INLINE int claim_item(worker *w) { return atomic_fetch_add(&w->engine->next_item[w->region % 3], 1); }

/* ---- The parts of the network ------------------------------------------------------------------------------------------- */

/* (x - mean) / sqrt(mean of squares + eps) * weight + bias; RMSNorm subtracts no mean. */
static void normalize(const model *m, const float *x, int width, norm n, float *y) {
    vec squares = broadcast(0);
    float mean = 0;
    if (m->subtracts_mean) {
        vec total = broadcast(0);
        for (int i = 0; i < width; i += LANES) total += load_partial(x + i, min_int(LANES, width - i));
        mean = reduce_sum(total) / width;
    }
    for (int i = 0; i < width; i += LANES) {
        int count = min_int(LANES, width - i);
        vec v = load_partial(x + i, count);
        if (count == LANES) v -= mean;
        else for (int j = 0; j < count; j++) v[j] -= mean;
        squares = multiply_add(v, v, squares);
    }
    float rate = 1 / sqrtf(reduce_sum(squares) / width + m->eps);
    for (int i = 0; i < width; i++) y[i] = (x[i] - mean) * rate * n.weight[i] + (n.bias ? n.bias[i] : 0);
}

/* Applies a norm to the residual stream -> (N, C padded); returns the stream itself if there is no norm. With at most
   REPLICATED_NORM_ROWS rows, each worker does so for itself. */
static const float *normalize_rows(worker *w, norm n) {
    engine *e = w->engine;
    int replicated = w->batch->row_count <= REPLICATED_NORM_ROWS, width = e->model->width;
    if (!n.weight) return e->residual;
    float *to = replicated ? w->scratch : e->normed;
    for (int r = replicated ? 0 : claim_item(w); r < w->batch->row_count; r = replicated ? r + 1 : claim_item(w))
        normalize(e->model, e->residual + r * e->width, width, n, to + r * e->width);
    if (!replicated) barrier(w);
    return to;
}

/* Applies a norm to the residual stream in place. */
static void normalize_residual(worker *w, norm n) {
    engine *e = w->engine;
    for (int r; (r = claim_item(w)) < w->batch->row_count;) {
        float *x = e->residual + r * e->width;
        normalize(e->model, x, e->model->width, n, x);
    }
    barrier(w);
}

enum { QUERY, KEY, VALUE, PROJECTIONS };

/* x (N, C padded) -> qkv: the projections `first` to `end` of all rows, concatenated in each row. */
static void project_qkv(worker *w, const attention *a, const float *x, int first, int end) {
    engine *e = w->engine;
    const matrix *matrices[PROJECTIONS] = {&a->query, &a->key, &a->value};
    int64_t offsets[PROJECTIONS] = {0, e->key_offset, e->value_offset};
    int item = claim_item(w), first_item = 0;
    for (int p = first; p < end; first_item += chunk_count(matrices[p]), p++)
        for (; item < first_item + chunk_count(matrices[p]); item = claim_item(w)) {
            float *y = e->qkv + offsets[p] + (item - first_item) * CHUNK;
            multiply_chunk(matrices[p], item - first_item, (operands){x, y, e->width, e->qkv_width, w->batch->row_count});
        }
    barrier(w);
}

/* Rotary positions: rotates each pair (i, i + D/2) of one head in place by the angle of its position. */
static void rotate(const model *m, float *x, int position) {
    int half = m->head_width / 2;
    const float *cos = m->cos + (int64_t)position * m->head_width, *sin = m->sin + (int64_t)position * m->head_width;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] + b * sin[i];
        x[i + half] = b * cos[i + half] + a * sin[i + half];
    }
}

static void normalize_and_rotate(const model *m, norm n, float *heads, int count, int position) {
    for (int h = 0; h < count; h++) {
        float *head = heads + h * m->head_width;
        if (n.weight) normalize(m, head, m->head_width, n, head);
        if (m->cos) rotate(m, head, position);
    }
}

typedef struct { /* The keys and values of one layer that a row attends to, of its sequence or its source. */
    float *keys, *values; /* (K, capacity / LANES, D, LANES) and (K, capacity, D) */
    int64_t capacity;
    int last; /* the last position that the row attends to */
} kv;

/* The keys and values of a layer, for the sequence of row r. */
static kv sequence_kv(const model *m, const batch *b, int layer_number, int r) {
    int64_t offset = (int64_t)b->sequences[r] * m->kv_heads * b->capacity * m->head_width;
    return (kv){b->keys[layer_number] + offset, b->values[layer_number] + offset, b->capacity, b->positions[r]};
}

/* The keys and values of a decoder layer's cross-attention, for the source of row r. Each source has a buffer of its own size. */
static kv source_kv(const model *m, const batch *b, int layer_number, int r) {
    int length = b->source_lengths[r];
    int64_t capacity = padded(length), size = m->kv_heads * capacity * m->head_width;
    float *keys = b->sources[r] + 2 * layer_number * size;
    return (kv){keys, keys + size, capacity, length - 1};
}

/* The keys and values that row r attends to. An encoder layer uses the place of the first decoder layer in the source's buffer. */
static kv kv_of(const model *m, const batch *b, int layer_number, int crosses, int r) {
    if (b->encodes) return source_kv(m, b, 0, r);
    return crosses ? source_kv(m, b, layer_number, r) : sequence_kv(m, b, layer_number, r);
}

/* Normalizes and rotates the keys of a row, and writes its keys and values into the caller's buffers. */
static void store_row(const engine *e, const attention *a, kv to, float *qkv, int64_t position) {
    const model *m = e->model;
    int D = m->head_width;
    normalize_and_rotate(m, a->key_norm, qkv + e->key_offset, m->kv_heads, position);
    for (int k = 0; k < m->kv_heads; k++) {
        float *keys = to.keys + (k * to.capacity + position / LANES * LANES) * D + position % LANES;
        float *values = to.values + (k * to.capacity + position) * D;
        for (int d = 0; d < D; d++) keys[d * LANES] = qkv[e->key_offset + k * D + d];
        memcpy(values, qkv + e->value_offset + k * D, D * sizeof(float));
    }
}

/* Normalizes and rotates the queries of all rows, and stores their keys and values. */
static void store_kv(worker *w, const attention *a, int layer_number) {
    engine *e = w->engine;
    const model *m = e->model;
    const batch *b = w->batch;
    for (int r; (r = claim_item(w)) < b->row_count;) {
        float *qkv = e->qkv + r * e->qkv_width;
        normalize_and_rotate(m, a->query_norm, qkv, m->heads, b->positions[r]);
        store_row(e, a, kv_of(m, b, layer_number, 0, r), qkv, b->positions[r]);
    }
    barrier(w);
}

typedef struct { /* One query: a row and a head. */
    const float *query; /* (D) */
    float *weights;     /* (capacity), scratch */
    float *output;      /* (D) */
    const float *bias;  /* (capacity), added to the scores; or null */
    int last;           /* the last position that the query attends to; in a decoder, its own */
} query_row;

typedef struct { /* The keys to read: blocks of LANES positions, from `first` up to but not including `end`. */
    int first, end;
    int64_t window;
} key_range;

/* The first position that a query attends to. */
INLINE int first_visible(int64_t window, int last) {
    return window && last >= window ? (int)(last - window + 1) : 0;
}

/* Computes the scores of `count` queries for the keys of blocks `first` to `end`, `together` blocks at a time. */
INLINE void score_keys(const model *m, const float *keys, const query_row *queries, int count, int first, int end, int together) {
    int D = m->head_width;
    for (int b = first; b + together <= end; b += together) {
        vec total[TILE_QUERIES][TILE_KEY_BLOCKS];
        UNROLL for (int q = 0; q < count; q++)
            UNROLL for (int s = 0; s < together; s++) total[q][s] = broadcast(0);
        for (int d = 0; d < D; d++) {
            vec key[TILE_KEY_BLOCKS];
            UNROLL for (int s = 0; s < together; s++) key[s] = *(const vec *)(keys + ((int64_t)(b + s) * D + d) * LANES);
            UNROLL for (int q = 0; q < count; q++)
                UNROLL for (int s = 0; s < together; s++)
                    total[q][s] = multiply_add(broadcast(queries[q].query[d]), key[s], total[q][s]);
        }
        UNROLL for (int q = 0; q < count; q++)
            UNROLL for (int s = 0; s < together; s++)
                *(vec *)(queries[q].weights + (b + s) * LANES) = total[q][s] * m->score_scale;
    }
}

/* Adds the bias of each key's distance to the scores. */
static void add_bias(const query_row *query, key_range range) {
    for (int b = range.first; b < range.end; b++)
        *(vec *)(query->weights + b * LANES) += *(const vec *)(query->bias + b * LANES);
}

/* Scores -> weights, in place: the softmax over the positions that the query attends to; exactly 0 at other positions. */
static void masked_softmax(const query_row *query, key_range range) {
    vec_int lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    int first = first_visible(range.window, query->last);
    vec most = broadcast(-INFINITY), total = broadcast(0);
    for (int b = range.first; b < range.end; b++) {
        vec *scores = (vec *)(query->weights + b * LANES);
        vec_int position = lane + b * LANES;
        *scores = blend((position <= query->last) & (position >= first), *scores, broadcast(-INFINITY));
        most = maximum(most, *scores);
    }
    float largest = reduce_max(most);
    for (int b = range.first; b < range.end; b++) {
        vec *scores = (vec *)(query->weights + b * LANES);
        *scores = exponential(*scores - largest);
        total += *scores;
    }
    float rate = 1 / reduce_sum(total);
    for (int b = range.first; b < range.end; b++) *(vec *)(query->weights + b * LANES) *= rate;
}

/* Computes each query's output: the weighted sum of the values of positions `first` to `end`, added in order. A position that the
   query does not attend to has the weight 0. */
INLINE void weighted_sum(const model *m, const float *values, const query_row *queries, int count, int first, int end) {
    int D = m->head_width, d = 0;
    for (; d + LANES <= D; d += LANES) {
        vec total[TILE_QUERIES];
        UNROLL for (int q = 0; q < count; q++) total[q] = broadcast(0);
        for (int64_t s = first; s < end; s++) {
            vec value = *(const vec *)(values + s * D + d);
            UNROLL for (int q = 0; q < count; q++) total[q] = multiply_add(broadcast(queries[q].weights[s]), value, total[q]);
        }
        UNROLL for (int q = 0; q < count; q++) *(vec *)(queries[q].output + d) = total[q];
    }
    if (d == D) return;
    vec total[TILE_QUERIES]; /* not a scalar loop: its vectorized order of additions would depend on the length */
    UNROLL for (int q = 0; q < count; q++) total[q] = broadcast(0);
    for (int64_t s = first; s < end; s++) {
        vec value = load_partial(values + s * D + d, D - d);
        UNROLL for (int q = 0; q < count; q++) total[q] = multiply_add(broadcast(queries[q].weights[s]), value, total[q]);
    }
    for (int q = 0; q < count; q++) memcpy(queries[q].output + d, &total[q], (D - d) * sizeof(float));
}

/* Computes the attention of one head for `count` queries of consecutive rows. */
INLINE void attend_tile(
    const model *m, const float *keys, const float *values, const query_row *queries, int count, key_range range
) {
    int together = count == 1 ? TILE_KEY_BLOCKS : 2;
    int rest = range.first + (range.end - range.first) / together * together;
    score_keys(m, keys, queries, count, range.first, rest, together);
    score_keys(m, keys, queries, count, rest, range.end, 1);
    for (int q = 0; q < count && queries[q].bias; q++) add_bias(&queries[q], range);
    for (int q = 0; q < count; q++) masked_softmax(&queries[q], range);
    weighted_sum(m, values, queries, count, range.first * LANES, min_int(range.end * LANES, queries[count - 1].last + 1));
}

/* The number of rows, beginning with r, that attend to the same keys and values; at most TILE_QUERIES. The rows of one sequence are
   consecutive positions. */
static int rows_together(const model *m, const batch *b, int layer_number, int crosses, int r) {
    const float *keys = kv_of(m, b, layer_number, crosses, r).keys;
    int n = 1;
    while (n < TILE_QUERIES && r + n < b->row_count && kv_of(m, b, layer_number, crosses, r + n).keys == keys) n++;
    return n;
}

typedef struct { /* The attention of one layer. */
    int layer_number, crosses;
    int64_t window;
    const stack *biased; /* the stack whose `distance_bias` is added to the scores, or null */
} attention_call;

/* Computes the attention of `n` rows that attend to the same keys and values, for the query heads that share one key/value head. */
static void attend_rows(worker *w, attention_call call, int r, int n, int kv_head) {
    engine *e = w->engine;
    const model *m = e->model;
    const batch *b = w->batch;
    int D = m->head_width, group = m->heads / m->kv_heads;
    kv first = kv_of(m, b, call.layer_number, call.crosses, r), last = kv_of(m, b, call.layer_number, call.crosses, r + n - 1);
    const float *keys = first.keys + kv_head * first.capacity * D, *values = first.values + kv_head * first.capacity * D;
    key_range range = {first_visible(call.window, first.last) / LANES, (last.last + LANES) / LANES, call.window};
    int step = first.last < last.last; /* in a decoder, each row attends to one position more than the row before it */
    for (int h = kv_head * group; h < (kv_head + 1) * group; h++) {
        query_row queries[TILE_QUERIES];
        const float *bias = call.biased ? call.biased->distance_bias + (2 * h + 1) * call.biased->bias_positions : NULL;
        for (int q = 0; q < n; q++)
            queries[q] = (query_row){e->qkv + (r + q) * e->qkv_width + h * D, w->scratch + q * e->weights_stride,
                                     e->attended + (r + q) * e->attended_width + h * D,
                                     bias ? bias - b->positions[r + q] : NULL, first.last + q * step};
        switch (n) {
        case 1: attend_tile(m, keys, values, queries, 1, range); break;
        case 2: attend_tile(m, keys, values, queries, 2, range); break;
        case 3: attend_tile(m, keys, values, queries, 3, range); break;
        default: attend_tile(m, keys, values, queries, TILE_QUERIES, range);
        }
    }
}

/* Computes the attention of all rows. An item is one key/value head of some rows that attend to the same keys and values. */
static void attend(worker *w, attention_call call) {
    const model *m = w->engine->model;
    int claimed = claim_item(w), first_item = 0, kv_heads = m->kv_heads;
    for (int r = 0, n; r < w->batch->row_count; r += n, first_item += kv_heads) {
        n = rows_together(m, w->batch, call.layer_number, call.crosses, r);
        for (; claimed < first_item + kv_heads; claimed = claim_item(w)) attend_rows(w, call, r, n, claimed - first_item);
    }
    barrier(w);
}

/* residual += x W^T + bias. */
static void add_to_residual(worker *w, const matrix *m, const float *x, int64_t x_stride) {
    engine *e = w->engine;
    int rows = w->batch->row_count;
    for (int chunk; (chunk = claim_item(w)) < chunk_count(m);) {
        multiply_chunk(m, chunk, (operands){x, w->scratch, x_stride, CHUNK, rows});
        for (int r = 0; r < rows; r++)
            for (int o = 0; o < chunk_width(m, chunk); o += LANES)
                *(vec *)(e->residual + r * e->width + chunk * CHUNK + o) += *(vec *)(w->scratch + r * CHUNK + o);
    }
    barrier(w);
}

/* The exponent s of an activation v / (1 + e^-s). For SiLU, s = v. For GELU's tanh approximation v (1 + tanh(t)) / 2, s = 2t. */
INLINE vec activation_exponent(int activation, vec v) {
    return activation == GELU_TANH ? 1.5957691216057308f * (v + 0.044715f * v * v * v) : v;
}

/* activation(gate) * up, or without a gate activation(up). */
INLINE vec activate(int activation, int gated, vec gate, vec up) {
    vec activated = gated ? gate : up;
    vec numerator = gated ? activated * up : up;
    if (activation == RELU) return blend(activated < 0, broadcast(0), numerator);
    if (activation == GELU_ERF) return numerator * normal_cdf(activated);
    return numerator / (1.0f + exponential(-activation_exponent(activation, activated)));
}

/* Replaces up (rows, width) by the activated numbers. `gates` (rows, CHUNK) is null without a gate. */
INLINE void activate_rows(const engine *e, float *up, const float *gates, int rows, int width, int activation) {
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < width; o += LANES) {
            vec *at = (vec *)(up + r * e->hidden_width + o);
            *at = activate(activation, gates != NULL, gates ? *(const vec *)(gates + r * CHUNK + o) : *at, *at);
        }
}

/* x (N, C padded) -> hidden: activation(gate) * up, or without a gate activation(up). */
static void activate_hidden(worker *w, const layer *l, const float *x) {
    engine *e = w->engine;
    int rows = w->batch->row_count;
    /* for a small batch, the beginning of the scratch contains x */
    float *gates = l->gate.weight ? w->scratch + REPLICATED_NORM_ROWS * e->width : NULL;
    for (int chunk; (chunk = claim_item(w)) < chunk_count(&l->up);) {
        float *hidden = e->hidden + chunk * CHUNK;
        int width = chunk_width(&l->up, chunk);
        multiply_chunk(&l->up, chunk, (operands){x, hidden, e->width, e->hidden_width, rows});
        if (gates) multiply_chunk(&l->gate, chunk, (operands){x, gates, e->width, CHUNK, rows});
        switch (e->model->activation) {
        case SILU: activate_rows(e, hidden, gates, rows, width, SILU); break;
        case GELU_TANH: activate_rows(e, hidden, gates, rows, width, GELU_TANH); break;
        case GELU_ERF: activate_rows(e, hidden, gates, rows, width, GELU_ERF); break;
        default: activate_rows(e, hidden, gates, rows, width, RELU);
        }
    }
    barrier(w);
}

/* One weight of a packed matrix. */
static float element(const matrix *m, int64_t output, int64_t input) {
    int64_t at = (output / LANES * m->inputs + input) * LANES;
    if (m->dtype == FLOAT32) return ((const float *)m->weight)[at + output % LANES];
    vec loaded = load_weights((const char *)m->weight + at * dtype_size(m->dtype), m->dtype);
    return loaded[output % LANES] * (m->dtype == INT8 ? m->scale[output] : 1);
}

/* residual = the embedding of each row's token, plus the embedding of its position (learned or sinusoidal), after the norm of both. */
static void embed(worker *w, const stack *s) {
    engine *e = w->engine;
    const model *m = e->model;
    for (int r; (r = claim_item(w)) < w->batch->row_count;) {
        float *x = e->residual + r * e->width;
        int64_t position = w->batch->positions[r];
        for (int i = 0; i < m->width; i++) {
            x[i] = element(&m->embedding, w->batch->ids[r], i) * m->embedding_scale;
            if (s->position.weight) x[i] += element(&s->position, position, i);
            if (m->sinusoids) x[i] += m->sinusoids[position * m->width + i];
        }
        if (s->embedding_norm.weight) normalize(m, x, m->width, s->embedding_norm, x);
    }
    barrier(w);
}

/* Computes the logits of `logit_rows`. */
static void unembed(worker *w) {
    engine *e = w->engine;
    const model *m = e->model;
    const batch *b = w->batch;
    const matrix *head = &m->unembedding;
    for (int r; (r = claim_item(w)) < b->logit_row_count;) {
        const float *x = e->residual + b->logit_rows[r] * e->width;
        if (m->decoder.final_norm.weight) normalize(m, x, m->width, m->decoder.final_norm, e->normed + r * e->width);
        else memcpy(e->normed + r * e->width, x, m->width * sizeof(float));
    }
    barrier(w);
    for (int chunk; (chunk = claim_item(w)) < chunk_count(head);)
        multiply_chunk(head, chunk, (operands){
            e->normed, b->logits + chunk * CHUNK, e->width, padded(head->outputs), b->logit_row_count});
    barrier(w);
}

/* Computes the keys and values of each decoder layer's cross-attention from the encoder's output, and stores them. */
static void store_sources(worker *w) {
    engine *e = w->engine;
    const model *m = e->model;
    const batch *b = w->batch;
    const float *encoded = normalize_rows(w, m->encoder.final_norm);
    for (int number = 0; number < m->decoder.layer_count; number++) {
        const attention *a = &m->decoder.layers[number].cross;
        project_qkv(w, a, encoded, KEY, PROJECTIONS);
        for (int r; (r = claim_item(w)) < b->row_count;)
            store_row(e, a, source_kv(m, b, number, r), e->qkv + r * e->qkv_width, b->positions[r]);
        barrier(w);
    }
}

/* The input of attention or feed-forward: the residual stream, after the norm of a pre-norm model. */
static const float *input_rows(worker *w, norm n) {
    return w->engine->model->post_norm ? w->engine->residual : normalize_rows(w, n);
}

/* Adds the output x W^T + bias of attention or feed-forward to the residual stream; a post-norm model then applies the norm. */
static void output_rows(worker *w, const matrix *m, const float *x, int64_t x_stride, norm n) {
    add_to_residual(w, m, x, x_stride);
    if (w->engine->model->post_norm) normalize_residual(w, n);
}

static void self_attention(worker *w, const stack *s, const layer *l, int layer_number) {
    engine *e = w->engine;
    project_qkv(w, &l->self, input_rows(w, l->self.norm), QUERY, PROJECTIONS);
    store_kv(w, &l->self, layer_number);
    attend(w, (attention_call){layer_number, 0, l->window, s->distance_bias ? s : NULL});
    output_rows(w, &l->self.output, e->attended, e->attended_width, l->self.norm);
}

static void cross_attention(worker *w, const layer *l, int layer_number) {
    engine *e = w->engine;
    project_qkv(w, &l->cross, input_rows(w, l->cross.norm), QUERY, KEY);
    attend(w, (attention_call){layer_number, 1, 0, NULL});
    output_rows(w, &l->cross.output, e->attended, e->attended_width, l->cross.norm);
}

static void feed_forward(worker *w, const layer *l) {
    engine *e = w->engine;
    activate_hidden(w, l, input_rows(w, l->feed_forward_norm));
    output_rows(w, &l->down, e->hidden, e->hidden_width, l->feed_forward_norm);
}

/* Runs one worker's share of the forward pass. Every worker calls this function and passes every barrier. */
static void forward(engine *e, int worker_number) {
    const stack *s = e->batch->encodes ? &e->model->encoder : &e->model->decoder;
    worker w = {e, e->batch, 0, e->thread_scratch + worker_number * e->thread_scratch_size};
    embed(&w, s);
    for (int number = 0; number < s->layer_count; number++) {
        const layer *l = &s->layers[number];
        self_attention(&w, s, l, number);
        if (l->cross.query.weight) cross_attention(&w, l, number);
        feed_forward(&w, l);
    }
    if (e->batch->encodes) store_sources(&w);
    else if (e->batch->logit_row_count) unembed(&w);
}

/* ---- Starting and stopping the threads ---------------------------------------------------------------------------------- */

typedef struct {
    engine *engine;
    int worker_number;
} thread_argument;

/* The function of a thread: runs the forward pass once for each call of engine_run, until the engine is freed. */
static void *worker_loop(void *given) {
    thread_argument argument = *(thread_argument *)given;
    engine *e = argument.engine;
    free(given);
    for (int call_number = 0;;) {
        for (int turns = 0; atomic_load(&e->call_number) == call_number && turns < SPINS_BEFORE_SLEEP; turns++) spin_or_yield(0);
        pthread_mutex_lock(&e->lock);
        while (atomic_load(&e->call_number) == call_number) pthread_cond_wait(&e->wake, &e->lock);
        pthread_mutex_unlock(&e->lock);
        call_number++;
        if (atomic_load(&e->stopping)) return NULL;
        forward(e, argument.worker_number);
        atomic_fetch_add(&e->finished, 1);
    }
}

/* Starts a call in every thread: spinning threads see the new number, and sleeping threads wake up. */
static void wake_threads(engine *e) {
    pthread_mutex_lock(&e->lock);
    atomic_fetch_add(&e->call_number, 1);
    pthread_cond_broadcast(&e->wake);
    pthread_mutex_unlock(&e->lock);
}

/* Starts threads until there are `threads` workers or the system allows no more. */
static void start_threads(engine *e, int threads) {
    e->thread_ids = calloc(threads, sizeof *e->thread_ids);
    while (e->thread_ids && e->threads < threads) {
        thread_argument *given = malloc(sizeof *given);
        if (!given) return;
        *given = (thread_argument){e, e->threads};
        if (pthread_create(&e->thread_ids[e->threads - 1], NULL, worker_loop, given)) {
            free(given);
            return;
        }
        e->threads++;
    }
}

/* Reserves scratch memory for a batch; it is reused in later calls and grows when needed. Returns 0, or -1 without memory. */
static int reserve_scratch(engine *e, const batch *b) {
    size_t n = b->row_count;
    e->weights_stride = b->capacity;
    for (int r = 0; b->sources && r < b->row_count; r++)
        if (padded(b->source_lengths[r]) > e->weights_stride) e->weights_stride = padded(b->source_lengths[r]);
    size_t weights = TILE_QUERIES * e->weights_stride;
    size_t products = REPLICATED_NORM_ROWS * e->width + n * CHUNK;
    e->thread_scratch_size = weights > products ? weights : products;
    size_t row_width = 2 * e->width + e->qkv_width + e->attended_width + e->hidden_width;
    size_t needed = n * row_width + e->thread_scratch_size * e->threads;
    if (needed > e->scratch_size) {
        free(e->allocated);
        e->allocated = malloc(needed * sizeof(float) + ALIGNMENT); /* Windows has no aligned_alloc */
        e->scratch_size = e->allocated ? needed : 0;
        if (!e->allocated) return -1;
        e->scratch = (float *)(((uintptr_t)e->allocated + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    }
    e->residual = e->scratch;
    e->normed = e->residual + n * e->width;
    e->qkv = e->normed + n * e->width;
    e->attended = e->qkv + n * e->qkv_width;
    e->hidden = e->attended + n * e->attended_width;
    e->thread_scratch = e->hidden + n * e->hidden_width;
    return 0;
}

/* ---- Functions that native.py calls -------------------------------------------------------------------------------------- */

/* The number of outputs of a matrix, or of keys in the cache, that are adjacent in memory. */
EXPORT int lanes(void) { return LANES; }

/* Whether this compiler has a float16 type. */
EXPORT int supports_float16(void) {
#ifdef __FLT16_MAX__
    return 1;
#else
    return 0;
#endif
}

/* Creates an engine of at most `threads` threads, including the caller's. Returns null without memory. The model must outlive it. */
EXPORT engine *engine_new(const model *m, int threads) {
    engine *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->model = m;
    e->threads = 1;
    e->width = padded(m->width);
    e->key_offset = padded(m->heads * m->head_width);
    e->value_offset = e->key_offset + padded(m->kv_heads * m->head_width);
    e->qkv_width = e->value_offset + padded(m->kv_heads * m->head_width);
    e->attended_width = padded(m->heads * m->head_width);
    e->hidden_width = padded(m->feed_forward);
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->wake, NULL);
    start_threads(e, threads);
    return e;
}

/* Reads the rows of a batch: writes their keys and values, and the logits of `logit_rows`, into the caller's buffers. With `encodes`,
   the rows are whole sources, and the call writes only the keys and values of cross-attention.
   Returns 0, or -1 without memory. Only one call may run at a time. */
EXPORT int engine_run(engine *e, const batch *b) {
    if (reserve_scratch(e, b)) return -1;
    e->batch = b;
    for (int i = 0; i < 3; i++) atomic_store(&e->next_item[i], 0);
    atomic_store(&e->finished, 0);
    if (e->threads > 1) wake_threads(e);
    forward(e, 0);
    for (int turns = 0; atomic_load(&e->finished) < e->threads - 1; turns++) spin_or_yield(turns);
    return 0;
}

/* Ends the threads and frees the engine. */
EXPORT void engine_free(engine *e) {
    atomic_store(&e->stopping, 1);
    wake_threads(e);
    for (int t = 0; t < e->threads - 1; t++) pthread_join(e->thread_ids[t], NULL);
    free(e->thread_ids);
    free(e->allocated);
    free(e);
}
