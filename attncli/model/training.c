/* The operations of a training step on a CPU, in float32: each forward operation of the network, its backward operation, and the
   optimizer's update. kernels.py calls one function for each operation; the order of the operations is in training/native_step.py.

   Reproducibility. Every sum is computed in an order that does not depend on the number of threads: an item sums in a fixed order,
   and sums over all rows are first computed for groups of SUMMED_ROWS rows, whose sums are then added in order. So a step gives the
   same bits on any number of threads.

   Threads. A team has `threads` workers; the thread that calls is worker 0. An operation is one or more regions. Workers claim the
   items of a region from an atomic counter, and run_region returns when all items are done. An item writes numbers that no other
   item of its region reads or writes. Between two regions, a worker spins for SPINS_BEFORE_SLEEP turns; then it sleeps.

   Products. A product packs its right matrix into panels of PANEL columns, which are read in order, and reads its left matrix in
   place (the blocks are those of Goto and van de Geijn, 2008). PRODUCT_ROWS x PANEL sums fit the registers.

   Letters: N rows (tokens of all windows), T queries, S keys, H heads, K key/value heads, D head width, C model width, V vocabulary. */

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

#if defined(__AVX512F__) || defined(__aarch64__)
enum { PRODUCT_ROWS = 12 };
#else
enum { PRODUCT_ROWS = 6 };
#endif
enum {
    PANEL_VECTORS = 2,
    PANEL = PANEL_VECTORS * LANES,
    PACKED_ROWS = (PRODUCT_ROWS + LANES - 1) / LANES * LANES, /* numbers that are copied at a time to pack PRODUCT_ROWS of them */
    DEPTH = 256,                  /* numbers of a row and a panel that a tile multiplies at a time; they fit the first cache */
    BLOCK_ROWS = 8 * 12,          /* rows that stay in the second cache while panels pass; a multiple of PRODUCT_ROWS */
    MOST_PACKED = 1 << 17,        /* numbers of the right matrix that an item packs */
    FEWEST_ITEM_ROWS = 4 * 12,    /* rows of a product are split down to this many */
    QUERY_ROWS = 4 * 12,          /* queries whose weights are computed at a time */
    SUMMED_ROWS = 64,             /* rows of a group, for sums over all rows */
    ITEM_ROWS = 16,               /* rows of an item, for operations on single rows */
    ITEM_NUMBERS = 1 << 14,       /* numbers of an item, for operations on single numbers */
    TABLE_COLUMNS = 32,           /* columns of an item, for the gradient of a table */
    SPINS_BEFORE_YIELD = 50000,   /* of a worker that waits for the other workers */
    SPINS_BEFORE_SLEEP = 50000,   /* between two regions */
};

/* ---- Threads ------------------------------------------------------------------------------------------------------------ */

typedef struct team team;
typedef struct {
    team *team;
    float *scratch; /* this worker's part of the team's scratch memory */
} worker;
typedef void region(worker *w, const void *call);

struct team {
    int threads; /* number of workers, including the caller's thread */
    pthread_t *thread_ids;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_int call_number, finished, stopping, next_item;
    region *region;
    const void *call;
    float *scratch, *sums; /* (threads, scratch_size) and (sums_size); they grow when needed */
    size_t scratch_size, sums_size;
};

static void spin_or_yield(int turns) {
    if (turns > SPINS_BEFORE_YIELD) sched_yield();
#if defined(__x86_64__)
    else __builtin_ia32_pause();
#endif
}

/* Claims the next item of the region and returns its number. The numbers continue beyond the last item. */
INLINE int claim_item(worker *w) { return atomic_fetch_add(&w->team->next_item, 1); }

typedef struct {
    team *team;
    int worker_number;
} thread_argument;

/* The function of a thread: runs each region once, until the team is freed. */
static void *worker_loop(void *given) {
    thread_argument argument = *(thread_argument *)given;
    team *t = argument.team;
    free(given);
    for (int call_number = 0;;) {
        for (int turns = 0; atomic_load(&t->call_number) == call_number && turns < SPINS_BEFORE_SLEEP; turns++) spin_or_yield(0);
        if (atomic_load(&t->call_number) == call_number) {
            pthread_mutex_lock(&t->lock);
            while (atomic_load(&t->call_number) == call_number) pthread_cond_wait(&t->wake, &t->lock);
            pthread_mutex_unlock(&t->lock);
        }
        call_number++;
        if (atomic_load(&t->stopping)) return NULL;
        worker w = {t, t->scratch + argument.worker_number * t->scratch_size};
        t->region(&w, t->call);
        atomic_fetch_add(&t->finished, 1);
    }
}

/* Starts a region in every thread: spinning threads see the new number, and sleeping threads wake up. */
static void wake_threads(team *t) {
    pthread_mutex_lock(&t->lock);
    atomic_fetch_add(&t->call_number, 1);
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

static void run_region(team *t, region *given, const void *call) {
    t->region = given;
    t->call = call;
    atomic_store(&t->next_item, 0);
    atomic_store(&t->finished, 0);
    if (t->threads > 1) wake_threads(t);
    worker w = {t, t->scratch};
    given(&w, call);
    for (int turns = 0; atomic_load(&t->finished) < t->threads - 1; turns++) spin_or_yield(turns);
}

/* Makes `*held` at least `needed` floats long; the old content is lost. Returns 0, or -1 without memory. */
static int reserve(float **held, size_t *size, size_t needed, size_t copies) {
    needed = (needed + 15) / 16 * 16; /* aligned_alloc takes a multiple of its alignment, 64 bytes */
    if (needed <= *size) return 0;
    free(*held);
    *held = aligned_alloc(64, needed * copies * sizeof(float));
    *size = *held ? needed : 0;
    return *held ? 0 : -1;
}

static int reserve_scratch(team *t, size_t needed) { return reserve(&t->scratch, &t->scratch_size, needed, t->threads); }
static int reserve_sums(team *t, size_t needed) { return reserve(&t->sums, &t->sums_size, needed, 1); }

/* Ends the threads and frees the team. */
EXPORT void team_free(team *t) {
    atomic_store(&t->stopping, 1);
    wake_threads(t);
    for (int i = 0; i < t->threads - 1; i++) pthread_join(t->thread_ids[i], NULL);
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->wake);
    free(t->thread_ids);
    free(t->scratch);
    free(t->sums);
    free(t);
}

/* Creates a team of at most `threads` workers, including the caller's thread: fewer if the system allows no more. Returns null without
   memory. */
EXPORT team *team_new(int threads) {
    team *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->threads = 1;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->wake, NULL);
    t->thread_ids = calloc(threads, sizeof *t->thread_ids);
    while (t->thread_ids && t->threads < threads) {
        thread_argument *given = malloc(sizeof *given);
        if (!given) break;
        *given = (thread_argument){t, t->threads};
        if (pthread_create(&t->thread_ids[t->threads - 1], NULL, worker_loop, given)) {
            free(given);
            break;
        }
        t->threads++;
    }
    return t;
}

/* ---- Sums of numbers ---------------------------------------------------------------------------------------------------- */

INLINE float sum(const float *x, int n) {
    vec total = broadcast(0);
    for (int i = 0; i < n; i += LANES) total += load_partial(x + i, min_int(LANES, n - i));
    return reduce_sum(total);
}

INLINE float dot(const float *x, const float *y, int n) {
    vec total = broadcast(0);
    for (int i = 0; i < n; i += LANES) {
        int count = min_int(LANES, n - i);
        total = multiply_add(load_partial(x + i, count), load_partial(y + i, count), total);
    }
    return reduce_sum(total);
}

static int parts_of(int64_t n, int size) { return (int)((n + size - 1) / size); }
static int round_up(int n, int unit) { return (n + unit - 1) / unit * unit; }

/* ---- Matrix products ---------------------------------------------------------------------------------------------------- */

typedef struct { /* A matrix in memory: element (i, j) is at[i * row + j * column]; `row` or `column` is 1. */
    const float *at;
    int64_t row, column;
} matrix;

typedef struct { /* c = start + a b: c (rows, columns), a (rows, depth), b (depth, columns), packed. */
    float *c;
    int64_t c_row;
    const float *start; /* (rows, columns), may be c; null for zeros */
    int64_t start_row;  /* 0 if one row is added to every row */
    matrix a;
    int rows, columns, depth;
    int symmetric; /* whether c is symmetric: the tiles above the diagonal are left out */
} product;

static int panel_count(int columns) { return (columns + PANEL - 1) / PANEL; }

/* Packs b (depth, columns) into panels (columns / PANEL, depth, PANEL); the last panel is filled up with zeros. */
static void pack(matrix b, int depth, int columns, float *panels) {
    for (int j = 0; j < columns; j += PANEL, panels += (int64_t)depth * PANEL) {
        const float *from = b.at + j * b.column;
        int count = min_int(PANEL, columns - j);
        if (count < PANEL) memset(panels, 0, sizeof(float) * depth * PANEL);
        if (b.column == 1 && count == PANEL) {
            for (int64_t k = 0; k < depth; k++)
                for (int v = 0; v < PANEL; v += LANES) *(vec *)(panels + k * PANEL + v) = *(const vec *)(from + k * b.row + v);
        } else if (count == PANEL) {
            for (int64_t k = 0; k < depth; k++)
                UNROLL for (int i = 0; i < PANEL; i++) panels[k * PANEL + i] = from[k * b.row + i * b.column];
        } else
            for (int64_t k = 0; k < depth; k++)
                for (int i = 0; i < count; i++) panels[k * PANEL + i] = from[k * b.row + i * b.column];
    }
}

/* Stores the sums of a tile: rows from i, columns from j. The first sums of a number are added to `start`, later ones to c. */
INLINE void store_tile(const product *p, vec (*total)[PANEL_VECTORS], int i, int j, int first) {
    int rows = min_int(PRODUCT_ROWS, p->rows - i), columns = min_int(PANEL, p->columns - j);
    float *c = p->c + i * p->c_row + j;
    const float *start = first ? p->start : p->c;
    int64_t start_row = first ? p->start_row : p->c_row;
    if (start) start += i * start_row + j;
    if (rows == PRODUCT_ROWS && columns == PANEL) {
        UNROLL for (int r = 0; r < PRODUCT_ROWS; r++)
            UNROLL for (int v = 0; v < PANEL_VECTORS; v++) {
                vec sum = start ? total[r][v] + *(const vec *)(start + r * start_row + v * LANES) : total[r][v];
                *(vec *)(c + r * p->c_row + v * LANES) = sum;
            }
        return;
    }
    float sums[PRODUCT_ROWS][PANEL];
    UNROLL for (int r = 0; r < PRODUCT_ROWS; r++)
        UNROLL for (int v = 0; v < PANEL_VECTORS; v++) *(vec *)(sums[r] + v * LANES) = total[r][v];
    for (int r = 0; r < rows; r++)
        for (int n = 0; n < columns; n++) c[r * p->c_row + n] = (start ? start[r * start_row + n] : 0) + sums[r][n];
}

/* Keeps a vector in a register; without this, GCC loads it again for each of its products. */
#if defined(__AVX__)
#define KEEP_IN_REGISTER(v) __asm__("" : "+v"(v))
#elif defined(__aarch64__)
#define KEEP_IN_REGISTER(v) __asm__("" : "+w"(v))
#else
#define KEEP_IN_REGISTER(v)
#endif

/* Computes one tile: at most PRODUCT_ROWS rows from row i, at most PANEL columns from column j. `a` are the rows, with `depth` of their
   numbers. */
static __attribute__((noinline)) void multiply_tile(
    const product *p, matrix a, const float *panel, int i, int j, int depth, int first
) {
    int last = min_int(PRODUCT_ROWS, p->rows - i) - 1;
    const float *row[PRODUCT_ROWS]; /* rows beyond the last one repeat it; their sums are not stored */
    UNROLL for (int r = 0; r < PRODUCT_ROWS; r++) row[r] = a.at + min_int(r, last) * a.row;
    vec total[PRODUCT_ROWS][PANEL_VECTORS];
    UNROLL for (int r = 0; r < PRODUCT_ROWS; r++)
        UNROLL for (int v = 0; v < PANEL_VECTORS; v++) total[r][v] = broadcast(0);
    const float *end = panel + (int64_t)depth * PANEL;
    for (int64_t at = 0; panel < end; panel += PANEL, at += a.column) {
        vec b[PANEL_VECTORS];
        UNROLL for (int v = 0; v < PANEL_VECTORS; v++) {
            b[v] = *(const vec *)(panel + v * LANES);
            KEEP_IN_REGISTER(b[v]);
        }
        UNROLL for (int r = 0; r < PRODUCT_ROWS; r++) {
            vec left = broadcast(row[r][at]);
            UNROLL for (int v = 0; v < PANEL_VECTORS; v++) total[r][v] = multiply_add(left, b[v], total[r][v]);
        }
    }
    store_tile(p, total, i, j, first);
}

/* Packs rows of a, whose columns are adjacent in memory, into tiles (rows / PRODUCT_ROWS, depth, PRODUCT_ROWS). A vector may end beyond
   its place; the next one then overwrites it. */
static void pack_rows(matrix a, int rows, int depth, float *tiles) {
    for (int i = 0; i < rows; i += PRODUCT_ROWS, tiles += (int64_t)depth * PRODUCT_ROWS) {
        int count = min_int(PRODUCT_ROWS, rows - i);
        const float *from = a.at + i;
        if (i + PACKED_ROWS <= rows)
            for (int64_t k = 0; k < depth; k++)
                UNROLL for (int v = 0; v < PRODUCT_ROWS; v += LANES)
                    *(vec *)(tiles + k * PRODUCT_ROWS + v) = *(const vec *)(from + k * a.column + v);
        else
            for (int64_t k = 0; k < depth; k++)
                for (int r = 0; r < count; r++) tiles[k * PRODUCT_ROWS + r] = from[k * a.column + r];
    }
}

/* Multiplies with packed panels, `stride` numbers apart. A number is the sum of the sums of DEPTH products each. A transposed left
   matrix is copied, because its rows are far apart in memory. */
static void multiply(const product *p, const float *panels, int64_t stride) {
    float tiles[BLOCK_ROWS * DEPTH + LANES];
    for (int k = 0; k < p->depth; k += DEPTH)
        for (int block = 0; block < p->rows; block += BLOCK_ROWS) {
            int end = min_int(block + BLOCK_ROWS, p->rows), depth = min_int(DEPTH, p->depth - k);
            int packed = p->a.column != 1;
            matrix a = {p->a.at + block * p->a.row + k * p->a.column, p->a.row, p->a.column};
            if (packed) {
                pack_rows(a, end - block, depth, tiles);
                a = (matrix){tiles, 1, PRODUCT_ROWS};
            }
            for (int j = 0; j < p->columns; j += PANEL) {
                const float *panel = panels + j / PANEL * stride + (int64_t)k * PANEL;
                for (int i = block; i < end; i += PRODUCT_ROWS) {
                    if (p->symmetric && j >= i + PRODUCT_ROWS) continue;
                    matrix rows = {a.at + (i - block) * (packed ? depth : a.row), a.row, a.column};
                    multiply_tile(p, rows, panel, i, j, depth, k == 0);
                }
            }
        }
}

typedef struct {
    product product;
    matrix b;
    int row_items, column_items;
} product_call;

/* Computes a product. An item is a block of columns, and some rows if there are many threads or if a is transposed: then each item also
   packs its rows. */
static void product_region(worker *w, const void *given) {
    const product_call *call = given;
    const product *whole = &call->product;
    int64_t tiles = (whole->rows + PRODUCT_ROWS - 1) / PRODUCT_ROWS, panels = panel_count(whole->columns);
    for (int item; (item = claim_item(w)) < call->row_items * call->column_items;) {
        int r = item % call->row_items, c = item / call->row_items;
        int first = (int)(panels * c / call->column_items) * PANEL, end = (int)(panels * (c + 1) / call->column_items) * PANEL;
        int row = (int)(tiles * r / call->row_items) * PRODUCT_ROWS, last = (int)(tiles * (r + 1) / call->row_items) * PRODUCT_ROWS;
        product p = *whole;
        p.columns = min_int(end, whole->columns) - first;
        p.rows = min_int(last, whole->rows) - row;
        p.c += row * p.c_row + first;
        if (p.start) p.start += row * p.start_row + first;
        p.a.at += row * p.a.row;
        matrix b = call->b;
        b.at += first * b.column;
        pack(b, p.depth, p.columns, w->scratch);
        multiply(&p, w->scratch, (int64_t)p.depth * PANEL);
    }
}

/* c = start + a b. `start` may be null, or c itself; with a start_row of 0, one row is added to every row. Returns 0, or -1 without
   memory. */
EXPORT int multiply_matrices(
    team *t, float *c, int64_t c_row, const float *start, int64_t start_row, const float *a, int64_t a_row, int64_t a_column,
    const float *b, int64_t b_row, int64_t b_column, int rows, int columns, int depth
) {
    int panels = panel_count(columns), most_panels = MOST_PACKED / PANEL / depth > 0 ? MOST_PACKED / PANEL / depth : 1;
    int column_items = (panels + most_panels - 1) / most_panels;
    if (a_column == 1 && column_items < 2 * t->threads) column_items = min_int(2 * t->threads, panels);
    int row_items = min_int((2 * t->threads + column_items - 1) / column_items, rows / FEWEST_ITEM_ROWS);
    product_call call = {
        {c, c_row, start, start_row, {a, a_row, a_column}, rows, columns, depth, 0}, {b, b_row, b_column},
        row_items > 0 ? row_items : 1, column_items};
    if (reserve_scratch(t, (size_t)((panels + column_items - 1) / column_items) * PANEL * depth)) return -1;
    run_region(t, product_region, &call);
    return 0;
}

/* ---- Sums over rows ----------------------------------------------------------------------------------------------------- */

/* to += the sums of `groups` groups, (groups, width), in order. */
static void add_groups(const float *sums, int groups, int width, float *to) {
    for (int g = 0; g < groups; g++)
        for (int i = 0; i < width; i++) to[i] += sums[(int64_t)g * width + i];
}

typedef struct {
    const float *x;
    int64_t stride;
    int rows, width;
} row_sum_call;

static void row_sum_region(worker *w, const void *given) {
    const row_sum_call *call = given;
    for (int g; (g = claim_item(w)) < parts_of(call->rows, SUMMED_ROWS);) {
        float *sums = w->team->sums + (int64_t)g * call->width;
        memset(sums, 0, sizeof(float) * call->width);
        for (int r = g * SUMMED_ROWS; r < min_int((g + 1) * SUMMED_ROWS, call->rows); r++)
            for (int i = 0; i < call->width; i++) sums[i] += call->x[r * call->stride + i];
    }
}

/* to (width) += the sum of the rows of x (rows, width): the gradient of a bias. Returns 0, or -1 without memory. */
EXPORT int add_row_sum(team *t, float *to, const float *x, int64_t stride, int rows, int width) {
    int groups = parts_of(rows, SUMMED_ROWS);
    row_sum_call call = {x, stride, rows, width};
    if (reserve_sums(t, (size_t)groups * width)) return -1;
    run_region(t, row_sum_region, &call);
    add_groups(t->sums, groups, width, to);
    return 0;
}

/* ---- Norms -------------------------------------------------------------------------------------------------------------- */

typedef struct { /* y = (x - mean) rate weight + bias, where rate = 1 / sqrt(mean of squares + eps); RMSNorm subtracts no mean. */
    const float *x, *weight, *bias, *gradient; /* x (N, C); `bias` may be null */
    float *y, *to_x;
    int rows, width, subtracts_mean;
    float eps;
} norm_call;

typedef struct {
    float mean, rate;
} statistics;

static statistics statistics_of(const norm_call *n, const float *x) {
    if (!n->subtracts_mean) return (statistics){0, 1 / sqrtf(dot(x, x, n->width) / n->width + n->eps)};
    float mean = sum(x, n->width) / n->width;
    vec squares = broadcast(0);
    for (int i = 0; i < n->width; i += LANES) {
        int count = min_int(LANES, n->width - i);
        vec v = load_partial(x + i, count);
        if (count == LANES) v -= mean;
        else for (int j = 0; j < count; j++) v[j] -= mean;
        squares = multiply_add(v, v, squares);
    }
    return (statistics){mean, 1 / sqrtf(reduce_sum(squares) / n->width + n->eps)};
}

static void norm_region(worker *w, const void *given) {
    const norm_call *n = given;
    for (int item; (item = claim_item(w)) < parts_of(n->rows, ITEM_ROWS);)
        for (int r = item * ITEM_ROWS; r < min_int((item + 1) * ITEM_ROWS, n->rows); r++) {
            const float *x = n->x + (int64_t)r * n->width;
            float *y = n->y + (int64_t)r * n->width;
            statistics s = statistics_of(n, x);
            if (n->bias) for (int i = 0; i < n->width; i++) y[i] = (x[i] - s.mean) * s.rate * n->weight[i] + n->bias[i];
            else for (int i = 0; i < n->width; i++) y[i] = (x[i] - s.mean) * s.rate * n->weight[i];
        }
}

EXPORT void normalize_rows(
    team *t, float *y, const float *x, const float *weight, const float *bias, int rows, int width, float eps, int subtracts_mean
) {
    norm_call call = {x, weight, bias, NULL, y, NULL, rows, width, subtracts_mean, eps};
    run_region(t, norm_region, &call);
}

/* Adds the gradient of one row to to_x, and to the sums of the weight and the bias: with n = (x - mean) rate and g = dy weight,
   dx = rate (g - mean(g) - n mean(g n)), where RMSNorm has no mean(g). */
static void norm_row_backward(const norm_call *n, int64_t r, float *weight_sums, float *bias_sums, float *g) {
    const float *x = n->x + r * n->width, *gradient = n->gradient + r * n->width;
    float *to_x = n->to_x + r * n->width;
    statistics s = statistics_of(n, x);
    for (int i = 0; i < n->width; i++) g[i] = gradient[i] * n->weight[i];
    float *normed = g + n->width;
    for (int i = 0; i < n->width; i++) normed[i] = (x[i] - s.mean) * s.rate;
    float along = dot(g, normed, n->width) / n->width, mean = n->subtracts_mean ? sum(g, n->width) / n->width : 0;
    for (int i = 0; i < n->width; i++) to_x[i] += s.rate * (g[i] - mean - normed[i] * along);
    for (int i = 0; i < n->width; i++) weight_sums[i] += gradient[i] * normed[i];
    if (n->bias) for (int i = 0; i < n->width; i++) bias_sums[i] += gradient[i];
}

static void norm_backward_region(worker *w, const void *given) {
    const norm_call *n = given;
    for (int group; (group = claim_item(w)) < parts_of(n->rows, SUMMED_ROWS);) {
        float *sums = w->team->sums + (int64_t)group * 2 * n->width;
        memset(sums, 0, 2 * sizeof(float) * n->width);
        for (int r = group * SUMMED_ROWS; r < min_int((group + 1) * SUMMED_ROWS, n->rows); r++)
            norm_row_backward(n, r, sums, sums + n->width, w->scratch);
    }
}

/* Adds the gradients of x, the weight and the bias to to_x, to_weight and to_bias, which may be null. Returns 0, or -1 without memory. */
EXPORT int normalize_rows_backward(
    team *t, float *to_x, float *to_weight, float *to_bias, const float *gradient, const float *x, const float *weight, int rows,
    int width, float eps, int subtracts_mean
) {
    norm_call call = {x, weight, to_bias, gradient, NULL, to_x, rows, width, subtracts_mean, eps};
    int groups = parts_of(rows, SUMMED_ROWS);
    if (reserve_sums(t, (size_t)groups * 2 * width) || reserve_scratch(t, 2 * width)) return -1;
    run_region(t, norm_backward_region, &call);
    for (int g = 0; g < groups; g++) {
        add_groups(t->sums + (int64_t)g * 2 * width, 1, width, to_weight);
        if (to_bias) add_groups(t->sums + (int64_t)(g * 2 + 1) * width, 1, width, to_bias);
    }
    return 0;
}

/* ---- Queries and keys: norm and rotation -------------------------------------------------------------------------------- */

typedef struct {
    const float *x;                     /* (N, x_stride): queries (H, D), then keys (K, D), then numbers that are not read */
    float *y;                           /* (N, y_stride): forward, rotated queries and keys; backward, their gradients, in place */
    const float *query_gain, *key_gain; /* (D), of RMSNorm; null without a norm */
    const float *cos, *sin;             /* (length, D), the first half of sin negated; null without rotation */
    int64_t x_stride, y_stride;
    int rows, length, heads, kv_heads, width; /* the position of row r is r % length */
    float eps;
} heads_call;

INLINE float head_rate(const heads_call *h, const float *x, const float *gain) {
    return gain ? 1 / sqrtf(dot(x, x, h->width) / h->width + h->eps) : 1;
}

/* Normalizes one head, then rotates each pair (i, i + D/2) by the angle of its position (Su et al., 2021). */
static void head_forward(
    const heads_call *h, const float *restrict x, const float *restrict gain, int position, float *restrict y
) {
    int half = h->width / 2;
    float rate = head_rate(h, x, gain);
    for (int i = 0; i < h->width; i++) y[i] = gain ? x[i] * rate * gain[i] : x[i];
    if (!h->cos) return;
    const float *cos = h->cos + (int64_t)position * h->width, *sin = h->sin + (int64_t)position * h->width;
    for (int i = 0; i < half; i++) {
        float a = y[i], b = y[i + half];
        y[i] = a * cos[i] + b * sin[i];
        y[i + half] = b * cos[i + half] + a * sin[i + half];
    }
}

/* Replaces the gradient of a rotated head by the gradient of x, and adds the gradient of the gain to `sums`. */
static void head_backward(
    const heads_call *h, const float *restrict x, const float *restrict gain, int position, float *restrict gradient, float *restrict sums
) {
    int half = h->width / 2;
    if (h->cos) {
        const float *cos = h->cos + (int64_t)position * h->width, *sin = h->sin + (int64_t)position * h->width;
        for (int i = 0; i < half; i++) {
            float a = gradient[i], b = gradient[i + half];
            gradient[i] = a * cos[i] + b * sin[i + half];
            gradient[i + half] = b * cos[i + half] + a * sin[i];
        }
    }
    if (!gain) return;
    float rate = head_rate(h, x, gain);
    for (int i = 0; i < h->width; i++) sums[i] += gradient[i] * x[i] * rate;
    for (int i = 0; i < h->width; i++) gradient[i] *= gain[i];
    float along = dot(gradient, x, h->width) * rate * rate / h->width;
    for (int i = 0; i < h->width; i++) gradient[i] = rate * (gradient[i] - x[i] * along);
}

static void heads_region(worker *w, const void *given) {
    const heads_call *h = given;
    for (int item; (item = claim_item(w)) < parts_of(h->rows, ITEM_ROWS);)
        for (int64_t r = item * ITEM_ROWS; r < min_int((item + 1) * ITEM_ROWS, h->rows); r++)
            for (int n = 0; n < h->heads + h->kv_heads; n++) {
                const float *gain = n < h->heads ? h->query_gain : h->key_gain;
                head_forward(h, h->x + r * h->x_stride + n * h->width, gain, r % h->length, h->y + r * h->y_stride + n * h->width);
            }
}

static void heads_backward_region(worker *w, const void *given) {
    const heads_call *h = given;
    for (int group; (group = claim_item(w)) < parts_of(h->rows, SUMMED_ROWS);) {
        float *sums = w->team->sums + (int64_t)group * 2 * h->width;
        memset(sums, 0, 2 * sizeof(float) * h->width);
        for (int64_t r = group * SUMMED_ROWS; r < min_int((group + 1) * SUMMED_ROWS, h->rows); r++)
            for (int n = 0; n < h->heads + h->kv_heads; n++) {
                int key = n >= h->heads;
                head_backward(h, h->x + r * h->x_stride + n * h->width, key ? h->key_gain : h->query_gain, r % h->length,
                              h->y + r * h->y_stride + n * h->width, sums + key * h->width);
            }
    }
}

EXPORT void rotate_heads(
    team *t, float *y, int64_t y_stride, const float *x, int64_t x_stride, const float *query_gain, const float *key_gain,
    const float *cos, const float *sin, int rows, int length, int heads, int kv_heads, int width, float eps
) {
    heads_call call = {x, y, query_gain, key_gain, cos, sin, x_stride, y_stride, rows, length, heads, kv_heads, width, eps};
    run_region(t, heads_region, &call);
}

/* Replaces the gradients of rotated queries and keys by those of x, and adds the gradients of the gains to to_gains: to_gains (2, D) may
   be null. Returns 0, or -1 without memory. */
EXPORT int rotate_heads_backward(
    team *t, float *gradient, int64_t gradient_stride, float *to_gains, const float *x, int64_t x_stride, const float *query_gain,
    const float *key_gain, const float *cos, const float *sin, int rows, int length, int heads, int kv_heads, int width, float eps
) {
    heads_call call = {x, gradient, query_gain, key_gain, cos, sin, x_stride, gradient_stride,
                       rows, length, heads, kv_heads, width, eps};
    int groups = parts_of(rows, SUMMED_ROWS);
    if (reserve_sums(t, (size_t)groups * 2 * width)) return -1;
    run_region(t, heads_backward_region, &call);
    if (to_gains) add_groups(t->sums, groups, 2 * width, to_gains);
    return 0;
}

/* ---- Attention ---------------------------------------------------------------------------------------------------------- */

typedef struct { /* Heads of all rows: head h of row r begins at at[r * stride + h * D]. */
    float *at;
    int64_t stride;
} heads;

typedef struct {
    heads query, key, value, output;                    /* output (N, H x D): the weighted sums of values */
    heads to_query, to_key, to_value, output_gradient;  /* for the backward pass */
    float *logs;          /* (N, H): the logarithm of the sum of the exponentials of a query's scores */
    const int *lengths;   /* (B): the keys of each sequence, the others being padding; null: all are keys */
    int batch, queries, keys, heads, kv_heads, width, causal, window; /* window: keys of a query, including its own; 0: all */
    float scale;
} attention_call;

typedef struct { /* The keys that a group of queries attends to: from `first`, a multiple of PANEL, up to but not including `end`. */
    int first, end;
} key_range;

INLINE int first_key(const attention_call *a, int query) { return a->window && query >= a->window ? query - a->window + 1 : 0; }
INLINE int end_key(const attention_call *a, int sequence, int query) {
    int end = a->lengths ? a->lengths[sequence] : a->keys;
    return a->causal ? min_int(end, query + 1) : end;
}

INLINE matrix plain(const float *at, int64_t row) { return (matrix){at, row, 1}; }
INLINE matrix transposed(const float *at, int64_t column) { return (matrix){at, 1, column}; }

/* The scaled scores of queries from q: (rows, end - first) -> scores, `stride` numbers apart. */
static void score_rows(
    const attention_call *a, const float *query, const float *panels, int rows, key_range range, float *scores, int stride
) {
    product p = {scores, stride, NULL, 0, plain(query, a->query.stride), rows, range.end - range.first, a->width, 0};
    multiply(&p, panels + (int64_t)range.first * a->width, (int64_t)a->width * PANEL);
}

/* Scores -> weights, in place: exp(scale score - log) at the keys from `first` up to `end`, 0 at other keys. `log` is the logarithm of the
   sum of the exponentials; it is computed here if it is not `known`. */
static void weigh_row(float *scores, int count, int first, int end, float scale, float *log, int known) {
    vec most = broadcast(-INFINITY), total = broadcast(0);
    for (int i = 0; i < first; i++) scores[i] = -INFINITY;
    for (int i = end; i < round_up(count, LANES); i++) scores[i] = -INFINITY;
    for (int i = 0; i < count && !known; i += LANES) most = maximum(most, *(const vec *)(scores + i));
    float shift = known ? *log : reduce_max(most) * scale;
    for (int i = 0; i < count; i += LANES) {
        vec e = exponential(*(const vec *)(scores + i) * scale - shift);
        *(vec *)(scores + i) = e;
        total += e;
    }
    if (known) return;
    float sum = reduce_sum(total);
    *log = shift + logf(sum);
    for (int i = 0; i < count; i += LANES) *(vec *)(scores + i) *= 1 / sum;
}

/* The weights of `rows` queries from query q of a sequence: (rows, end - first) -> weights, `stride` numbers apart. */
static key_range weigh_rows(
    const attention_call *a, int sequence, int q, int rows, int head, const float *panels, float *weights, int stride, int known
) {
    int64_t row = (int64_t)sequence * a->queries + q;
    key_range range = {first_key(a, q) / PANEL * PANEL, end_key(a, sequence, q + rows - 1)};
    score_rows(a, a->query.at + row * a->query.stride + head * a->width, panels, rows, range, weights, stride);
    for (int r = 0; r < rows; r++) {
        int first = first_key(a, q + r) - range.first, end = end_key(a, sequence, q + r) - range.first;
        weigh_row(weights + r * stride, range.end - range.first, first, end, a->scale, a->logs + (row + r) * a->heads + head, known);
    }
    return range;
}

/* Computes the outputs of the query heads that share one key/value head of one sequence. */
static void attend_item(const attention_call *a, int sequence, int kv_head, float *scratch) {
    int group = a->heads / a->kv_heads, stride = round_up(a->keys, PANEL), D = a->width;
    int64_t key_row = (int64_t)sequence * a->keys;
    float *keys = scratch, *values = keys + (int64_t)stride * D, *weights = values + (int64_t)a->keys * round_up(D, PANEL);
    pack(transposed(a->key.at + key_row * a->key.stride + kv_head * D, a->key.stride), D, a->keys, keys);
    pack(plain(a->value.at + key_row * a->value.stride + kv_head * D, a->value.stride), a->keys, D, values);
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (int q = 0; q < a->queries; q += QUERY_ROWS) {
            int rows = min_int(QUERY_ROWS, a->queries - q);
            key_range range = weigh_rows(a, sequence, q, rows, head, keys, weights, stride, 0);
            float *output = a->output.at + ((int64_t)sequence * a->queries + q) * a->output.stride + head * D;
            product p = {output, a->output.stride, NULL, 0, plain(weights, stride), rows, D, range.end - range.first, 0};
            multiply(&p, values + (int64_t)range.first * PANEL, (int64_t)a->keys * PANEL);
        }
}

static void attention_region(worker *w, const void *given) {
    const attention_call *a = given;
    for (int item; (item = claim_item(w)) < a->batch * a->kv_heads;) attend_item(a, item / a->kv_heads, item % a->kv_heads, w->scratch);
}

/* Replaces the gradients of the weights by those of the scores: ds = scale p (dp - sum(p dp)), where the sum is that of do o. */
static void score_gradients(
    const attention_call *a, const float *weights, float *gradients, int64_t row, int rows, int head, int count, int stride
) {
    for (int r = 0; r < rows; r++) {
        int64_t at = (row + r) * a->output.stride + head * a->width;
        float along = dot(a->output_gradient.at + (row + r) * a->output_gradient.stride + head * a->width, a->output.at + at, a->width);
        const float *p = weights + r * stride;
        float *g = gradients + r * stride;
        for (int i = 0; i < count; i++) g[i] = a->scale * p[i] * (g[i] - along);
    }
}

typedef struct { /* A worker's scratch memory in the backward pass of one key/value head. */
    float *keys_across, *values_across, *keys, *weights, *gradients, *rows; /* keys_across: packed as D x keys; keys: as keys x D */
} attention_scratch;

static attention_scratch divide_scratch(const attention_call *a, float *at) {
    int64_t keys = round_up(a->keys, PANEL), D = a->width, wide = round_up(a->width, PANEL);
    float *across = at + keys * D, *packed = across + keys * D, *weights = packed + a->keys * wide;
    return (attention_scratch){at, across, packed, weights, weights + QUERY_ROWS * keys, weights + 2 * QUERY_ROWS * keys};
}

/* to (keys, D) += left^T right, where left (rows, keys) and right (rows, D). */
static void add_to_keys(
    float *to, int64_t to_stride, const float *left, int stride, const float *right, int64_t right_stride, int rows, int keys, int D,
    float *panels
) {
    pack(plain(right, right_stride), rows, D, panels);
    product p = {to, to_stride, to, to_stride, transposed(left, stride), keys, D, rows, 0};
    multiply(&p, panels, (int64_t)rows * PANEL);
}

/* Computes the gradients of `rows` queries of one head, and adds their parts of the gradients of keys and values. The weights are
   computed again, from `logs` (Dao, 2023, algorithm 2). */
static void attend_backward_rows(const attention_call *a, int sequence, int q, int rows, int head, const attention_scratch *s) {
    int stride = round_up(a->keys, PANEL), D = a->width, kv_head = head / (a->heads / a->kv_heads);
    int64_t row = (int64_t)sequence * a->queries + q;
    key_range range = weigh_rows(a, sequence, q, rows, head, s->keys_across, s->weights, stride, 1);
    int count = range.end - range.first;
    int64_t key_row = (int64_t)sequence * a->keys + range.first;
    const float *query = a->query.at + row * a->query.stride + head * D;
    const float *gradient = a->output_gradient.at + row * a->output_gradient.stride + head * D;
    product p = {s->gradients, stride, NULL, 0, plain(gradient, a->output_gradient.stride), rows, count, D, 0};
    multiply(&p, s->values_across + (int64_t)range.first * D, (int64_t)D * PANEL);
    score_gradients(a, s->weights, s->gradients, row, rows, head, count, stride);
    float *to_query = a->to_query.at + row * a->to_query.stride + head * D;
    p = (product){to_query, a->to_query.stride, NULL, 0, plain(s->gradients, stride), rows, D, count, 0};
    multiply(&p, s->keys + (int64_t)range.first * PANEL, (int64_t)a->keys * PANEL);
    float *to_value = a->to_value.at + key_row * a->to_value.stride + kv_head * D;
    add_to_keys(to_value, a->to_value.stride, s->weights, stride, gradient, a->output_gradient.stride, rows, count, D, s->rows);
    float *to_key = a->to_key.at + key_row * a->to_key.stride + kv_head * D;
    add_to_keys(to_key, a->to_key.stride, s->gradients, stride, query, a->query.stride, rows, count, D, s->rows);
}

static void attend_backward_item(const attention_call *a, int sequence, int kv_head, float *scratch) {
    int group = a->heads / a->kv_heads, D = a->width;
    int64_t key_row = (int64_t)sequence * a->keys;
    attention_scratch s = divide_scratch(a, scratch);
    const float *key = a->key.at + key_row * a->key.stride + kv_head * D, *value = a->value.at + key_row * a->value.stride + kv_head * D;
    pack(transposed(key, a->key.stride), D, a->keys, s.keys_across);
    pack(transposed(value, a->value.stride), D, a->keys, s.values_across);
    pack(plain(key, a->key.stride), a->keys, D, s.keys);
    for (int64_t k = key_row; k < key_row + a->keys; k++) {
        memset(a->to_key.at + k * a->to_key.stride + kv_head * D, 0, D * sizeof(float));
        memset(a->to_value.at + k * a->to_value.stride + kv_head * D, 0, D * sizeof(float));
    }
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (int q = 0; q < a->queries; q += QUERY_ROWS)
            attend_backward_rows(a, sequence, q, min_int(QUERY_ROWS, a->queries - q), head, &s);
}

static void attention_backward_region(worker *w, const void *given) {
    const attention_call *a = given;
    for (int item; (item = claim_item(w)) < a->batch * a->kv_heads;)
        attend_backward_item(a, item / a->kv_heads, item % a->kv_heads, w->scratch);
}

/* softmax(scale Q K^T) V with a causal mask, a window or padding. An item is a key/value head of a sequence. Returns 0, or -1 without
   memory. */
EXPORT int attend(team *t, const attention_call *call) {
    size_t keys = round_up(call->keys, PANEL), wide = round_up(call->width, PANEL);
    if (reserve_scratch(t, keys * (call->width + wide + QUERY_ROWS))) return -1;
    run_region(t, attention_region, call);
    return 0;
}

/* Writes the gradients of queries, keys and values. Returns 0, or -1 without memory. */
EXPORT int attend_backward(team *t, const attention_call *call) {
    size_t keys = round_up(call->keys, PANEL), wide = round_up(call->width, PANEL);
    if (reserve_scratch(t, keys * (2 * call->width + wide + 2 * QUERY_ROWS) + QUERY_ROWS * wide)) return -1;
    run_region(t, attention_backward_region, call);
    return 0;
}

/* ---- The feed-forward part ---------------------------------------------------------------------------------------------- */

enum activation { SILU, GELU_TANH, GELU_ERF, RELU }; /* in the order of ACTIVATIONS in kernels.py */

typedef struct {
    vec value, slope;
} activated;

/* The activation of v and its derivative. SiLU and GELU's tanh approximation are v s, where s = 1 / (1 + e^-u) with u = v, or with
   u = sqrt(8 / pi) (v + 0.044715 v^3); the derivative is s + v s (1 - s) u'. */
INLINE activated activate(int activation, vec v) {
    if (activation == RELU) return (activated){blend(v < 0, broadcast(0), v), blend(v > 0, broadcast(1), broadcast(0))};
    if (activation == GELU_ERF) {
        vec cdf = normal_cdf(v);
        return (activated){v * cdf, multiply_add(v * 0.39894228040143268f, exponential(-0.5f * v * v), cdf)};
    }
    vec u = v, slope = broadcast(1);
    if (activation == GELU_TANH) {
        u = 1.5957691216057308f * (v + 0.044715f * v * v * v);
        slope = 1.5957691216057308f * (1 + 3 * 0.044715f * v * v);
    }
    vec s = 1.0f / (1.0f + exponential(-u));
    return (activated){v * s, s + v * s * (1 - s) * slope};
}

typedef struct { /* y = activation(gate) * up: x (N, 2 width) is gate and up. Without a gate, y = activation(x): x (N, width). */
    const float *x, *gradient;
    float *y, *to_x;
    int rows, width, gated, activation;
} feed_forward_call;

INLINE void feed_forward_row(const feed_forward_call *f, int64_t r, int activation) {
    const float *x = f->x + r * f->width * (1 + f->gated);
    float *y = f->y + r * f->width;
    for (int i = 0; i < f->width; i += LANES) {
        int count = min_int(LANES, f->width - i);
        vec result = activate(activation, load_partial(x + i, count)).value;
        if (f->gated) result *= load_partial(x + f->width + i, count);
        store_partial(y + i, result, count);
    }
}

INLINE void feed_forward_row_backward(const feed_forward_call *f, int64_t r, int activation) {
    const float *x = f->x + r * f->width * (1 + f->gated), *gradient = f->gradient + r * f->width;
    float *to_x = f->to_x + r * f->width * (1 + f->gated);
    for (int i = 0; i < f->width; i += LANES) {
        int count = min_int(LANES, f->width - i);
        activated a = activate(activation, load_partial(x + i, count));
        vec g = load_partial(gradient + i, count), to_up = g * a.value;
        vec to_gate = g * a.slope * (f->gated ? load_partial(x + f->width + i, count) : broadcast(1));
        store_partial(to_x + i, to_gate, count);
        if (f->gated) store_partial(to_x + f->width + i, to_up, count);
    }
}

INLINE void feed_forward_rows(const feed_forward_call *f, int item, int activation) {
    for (int r = item * ITEM_ROWS; r < min_int((item + 1) * ITEM_ROWS, f->rows); r++)
        if (f->to_x) feed_forward_row_backward(f, r, activation);
        else feed_forward_row(f, r, activation);
}

static void feed_forward_region(worker *w, const void *given) {
    const feed_forward_call *f = given;
    for (int item; (item = claim_item(w)) < parts_of(f->rows, ITEM_ROWS);) switch (f->activation) {
        case SILU: feed_forward_rows(f, item, SILU); break;
        case GELU_TANH: feed_forward_rows(f, item, GELU_TANH); break;
        case GELU_ERF: feed_forward_rows(f, item, GELU_ERF); break;
        default: feed_forward_rows(f, item, RELU);
        }
}

EXPORT void activate_rows(team *t, float *y, const float *x, int rows, int width, int gated, int activation) {
    feed_forward_call call = {x, NULL, y, NULL, rows, width, gated, activation};
    run_region(t, feed_forward_region, &call);
}

EXPORT void activate_rows_backward(
    team *t, float *to_x, const float *gradient, const float *x, int rows, int width, int gated, int activation
) {
    feed_forward_call call = {x, gradient, NULL, to_x, rows, width, gated, activation};
    run_region(t, feed_forward_region, &call);
}

/* ---- Residual sums and dropout ------------------------------------------------------------------------------------------ */

typedef struct { /* y = start + factor x, where x is 0 if its random byte is below `dropped` */
    float *y;
    const float *start, *x; /* `start` may be null, or y */
    const uint8_t *bytes;   /* null: nothing is dropped */
    int64_t count;
    int dropped;
    float factor;
} sum_call;

static void sum_region(worker *w, const void *given) {
    const sum_call *s = given;
    for (int item; (item = claim_item(w)) < parts_of(s->count, ITEM_NUMBERS);) {
        int64_t end = (int64_t)(item + 1) * ITEM_NUMBERS;
        if (end > s->count) end = s->count;
        for (int64_t i = (int64_t)item * ITEM_NUMBERS; i < end; i++) {
            float x = s->bytes && s->bytes[i] < s->dropped ? 0 : s->x[i] * s->factor;
            s->y[i] = s->start ? s->start[i] + x : x;
        }
    }
}

EXPORT void add_dropped(
    team *t, float *y, const float *start, const float *x, const uint8_t *bytes, int64_t count, int dropped, float factor
) {
    sum_call call = {y, start, x, bytes, count, dropped, factor};
    run_region(t, sum_region, &call);
}

/* ---- The embedding ------------------------------------------------------------------------------------------------------ */

typedef struct {
    float *x, *table;       /* x (N, C), table (rows of the table, C) */
    const float *positions; /* (length, C), added to the embeddings; or null */
    const int64_t *ids;     /* (N) */
    int rows, width, length;
    float scale;
} embedding_call;

static void embed_region(worker *w, const void *given) {
    const embedding_call *e = given;
    for (int item; (item = claim_item(w)) < parts_of(e->rows, ITEM_ROWS);)
        for (int64_t r = item * ITEM_ROWS; r < min_int((item + 1) * ITEM_ROWS, e->rows); r++) {
            const float *from = e->table + e->ids[r] * e->width, *position = e->positions + r % e->length * e->width;
            float *x = e->x + r * e->width;
            if (e->positions) for (int i = 0; i < e->width; i++) x[i] = from[i] * e->scale + position[i];
            else for (int i = 0; i < e->width; i++) x[i] = from[i] * e->scale;
        }
}

/* Adds the gradients of the rows to the table. An item is some columns, so that the rows of a token are added in order. */
static void embed_backward_region(worker *w, const void *given) {
    const embedding_call *e = given;
    for (int item; (item = claim_item(w)) < parts_of(e->width, TABLE_COLUMNS);) {
        int first = item * TABLE_COLUMNS, count = min_int(TABLE_COLUMNS, e->width - first);
        for (int64_t r = 0; r < e->rows; r++) {
            float *to = e->table + e->ids[r] * e->width + first;
            const float *from = e->x + r * e->width + first;
            for (int i = 0; i < count; i++) to[i] += from[i] * e->scale;
        }
    }
}

/* x = scale * the table's rows `ids`, plus the position of each row, which is r % length. */
EXPORT void embed(
    team *t, float *x, const float *table, const int64_t *ids, const float *positions, int rows, int width, int length, float scale
) {
    embedding_call call = {x, (float *)table, positions, ids, rows, width, length, scale};
    run_region(t, embed_region, &call);
}

EXPORT void embed_backward(team *t, float *to_table, const float *gradient, const int64_t *ids, int rows, int width, float scale) {
    embedding_call call = {(float *)gradient, to_table, NULL, ids, rows, width, rows, scale};
    run_region(t, embed_backward_region, &call);
}

/* ---- The loss ----------------------------------------------------------------------------------------------------------- */

typedef struct {
    float *logits; /* (N, V); replaced by their gradients */
    double *nats;  /* (N): the cross-entropy of each row */
    const int64_t *targets; /* (N); a negative one has no loss */
    int rows, vocabulary;
    float share, smoothing; /* the gradient of a row's loss is multiplied by `share` */
} loss_call;

/* Replaces the logits of a row by share * (softmax - smoothing / V - (1 - smoothing) onehot(target)), the gradient of the cross-entropy
   with label smoothing (Szegedy et al., 2016). Returns the cross-entropy without smoothing. */
static double loss_row(const loss_call *l, float *logits, int64_t target) {
    int n = l->vocabulary, whole = n / LANES * LANES;
    if (target < 0) {
        memset(logits, 0, n * sizeof(float));
        return 0;
    }
    vec most = broadcast(-INFINITY), total = broadcast(0);
    for (int i = 0; i < whole; i += LANES) most = maximum(most, *(const vec *)(logits + i));
    float largest = reduce_max(most), right = logits[target];
    for (int i = whole; i < n; i++) largest = logits[i] > largest ? logits[i] : largest;
    for (int i = 0; i < n; i += LANES) {
        int count = min_int(LANES, n - i);
        vec e = exponential(load_partial(logits + i, count) - largest);
        store_partial(logits + i, e, count);
        total += count == LANES ? e : load_partial(logits + i, count);
    }
    float all = reduce_sum(total), rate = l->share / all, spread = l->share * l->smoothing / n;
    for (int i = 0; i < n; i++) logits[i] = logits[i] * rate - spread;
    logits[target] -= l->share * (1 - l->smoothing);
    return (double)largest - right + log(all);
}

static void loss_region(worker *w, const void *given) {
    const loss_call *l = given;
    for (int r; (r = claim_item(w)) < l->rows;) l->nats[r] = loss_row(l, l->logits + (int64_t)r * l->vocabulary, l->targets[r]);
}

/* Replaces logits by their gradients. Returns the sum of the rows' cross-entropies. */
EXPORT double cross_entropy(
    team *t, float *logits, double *nats, const int64_t *targets, int rows, int vocabulary, float share, float smoothing
) {
    loss_call call = {logits, nats, targets, rows, vocabulary, share, smoothing};
    run_region(t, loss_region, &call);
    double total = 0;
    for (int r = 0; r < rows; r++) total += nats[r];
    return total;
}

/* ---- The optimizer ------------------------------------------------------------------------------------------------------ */

typedef struct {
    const float *x;
    int64_t count;
} squares_call;

static void squares_region(worker *w, const void *given) {
    const squares_call *s = given;
    for (int item; (item = claim_item(w)) < parts_of(s->count, ITEM_NUMBERS);) {
        int64_t first = (int64_t)item * ITEM_NUMBERS, rest = s->count - first;
        int count = rest < ITEM_NUMBERS ? (int)rest : ITEM_NUMBERS;
        w->team->sums[item] = dot(s->x + first, s->x + first, count);
    }
}

/* Returns the sum of the squares of x, or NaN without memory. */
EXPORT double sum_of_squares(team *t, const float *x, int64_t count) {
    squares_call call = {x, count};
    double total = 0;
    if (reserve_sums(t, parts_of(count, ITEM_NUMBERS))) return NAN;
    run_region(t, squares_region, &call);
    for (int i = 0; i < parts_of(count, ITEM_NUMBERS); i++) total += t->sums[i];
    return total;
}

typedef struct { /* A parameter that AdamW updates. */
    float *weight, *mean, *square;
    const float *gradient;
    int64_t count;
    float kept; /* 1 - learning rate x weight decay */
} adam_parameter;

typedef struct {
    const adam_parameter *parameters;
    int parameter_count;
    float clip, mean_rate, square_rate, square_scale, epsilon, step; /* `clip` multiplies the gradients */
} adam_call;

static void adam_numbers(const adam_call *a, const adam_parameter *p, int64_t first, int64_t end) {
    for (int64_t i = first; i < end; i++) {
        float g = p->gradient[i] * a->clip;
        p->mean[i] += (1 - a->mean_rate) * (g - p->mean[i]);
        p->square[i] = a->square_rate * p->square[i] + (1 - a->square_rate) * g * g;
        p->weight[i] = p->kept * p->weight[i] - a->step * p->mean[i] / (sqrtf(p->square[i]) * a->square_scale + a->epsilon);
    }
}

static void adam_region(worker *w, const void *given) {
    const adam_call *a = given;
    int item = claim_item(w), first_item = 0;
    for (const adam_parameter *p = a->parameters; p < a->parameters + a->parameter_count; p++) {
        int items = parts_of(p->count, ITEM_NUMBERS);
        for (; item < first_item + items; item = claim_item(w)) {
            int64_t first = (int64_t)(item - first_item) * ITEM_NUMBERS, end = first + ITEM_NUMBERS;
            adam_numbers(a, p, first, end < p->count ? end : p->count);
        }
        first_item += items;
    }
}

/* Adam with decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2). */
EXPORT void update_adam(team *t, const adam_call *call) { run_region(t, adam_region, call); }

typedef struct { /* A matrix that Muon updates. */
    float *weight, *momentum;
    const float *gradient;
    int rows, columns;
} muon_matrix;

typedef struct {
    const muon_matrix *matrices;   /* the most expensive first */
    const float *coefficients;     /* (steps, 3): a, b, c of each step */
    int matrix_count, steps;
    float clip, momentum, margin, kept, lr; /* `clip` multiplies the gradients; `kept` is 1 - lr x weight decay */
} muon_call;

/* The matrix x (n, k) as n <= k: momentum and Nesterov's step, then division by the norm. A tall matrix is transposed. */
static void begin_muon(const muon_call *call, const muon_matrix *m, float *x) {
    int64_t count = (int64_t)m->rows * m->columns;
    int tall = m->rows > m->columns;
    double squares = 0;
    for (int64_t r = 0; r < m->rows; r++)
        for (int64_t c = 0; c < m->columns; c++) {
            int64_t at = r * m->columns + c;
            float g = m->gradient[at] * call->clip, mean = m->momentum[at] + (1 - call->momentum) * (g - m->momentum[at]);
            m->momentum[at] = mean;
            x[tall ? c * m->rows + r : at] = mean - (1 - call->momentum) * (mean - g);
        }
    for (int64_t at = 0; at < count; at += ITEM_NUMBERS) squares += dot(x + at, x + at, min_int(ITEM_NUMBERS, (int)(count - at)));
    float rate = 1 / ((float)sqrt(squares) * call->margin + 1e-7f);
    for (int64_t at = 0; at < count; at++) x[at] *= rate;
}

/* c (n, n) = a b, which is symmetric: computes the lower triangle, and copies it. */
static void multiply_symmetric(float *c, const float *a, matrix b, int n, int depth, float *panels) {
    pack(b, depth, n, panels);
    product p = {c, n, NULL, 0, plain(a, depth), n, n, depth, 1};
    multiply(&p, panels, (int64_t)depth * PANEL);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i + 1; j < n; j++) c[i * n + j] = c[j * n + i];
}

/* Returns p x in y (n, k), where p is the product of the polynomials a + b S + c S^2 of all steps, with S = x x^T of the step's x: an
   approximation of U V^T, where x = U S V^T (Jordan et al., 2024). The polynomials of S are symmetric and commute, so the steps multiply
   matrices (n, n) only: after a step with polynomial q, S becomes q S q, and p becomes q p. `square` has room for four such matrices. */
static void orthogonalize(const muon_call *call, const float *x, float *y, float *square, int n, int k, float *panels) {
    int64_t size = (int64_t)n * n;
    float *q = square + size, *p = q + size, *spare = p + size;
    multiply_symmetric(square, x, transposed(x, k), n, k, panels);
    for (int step = 0; step < call->steps; step++) {
        const float *by = call->coefficients + 3 * step;
        multiply_symmetric(q, square, plain(square, n), n, n, panels);
        for (int64_t i = 0; i < size; i++) q[i] = by[1] * square[i] + by[2] * q[i];
        for (int64_t i = 0; i < n; i++) q[i * n + i] += by[0];
        if (step) multiply_symmetric(spare, q, plain(p, n), n, n, panels);
        else memcpy(spare, q, size * sizeof(float));
        memcpy(p, spare, size * sizeof(float));
        if (step == call->steps - 1) break;
        multiply_symmetric(spare, square, plain(q, n), n, n, panels);
        multiply_symmetric(square, q, plain(spare, n), n, n, panels);
    }
    pack(plain(x, k), n, k, panels);
    product whole = {y, k, NULL, 0, plain(p, n), n, k, n, 0};
    multiply(&whole, panels, (int64_t)n * PANEL);
}

static size_t muon_scratch(const muon_matrix *m) {
    size_t n = min_int(m->rows, m->columns), k = m->rows + m->columns - n;
    return 2 * n * k + 4 * n * n + n * round_up((int)k, PANEL) + k * round_up((int)n, PANEL);
}

static void update_muon_matrix(const muon_call *call, const muon_matrix *m, float *scratch) {
    int n = min_int(m->rows, m->columns), k = m->rows + m->columns - n, tall = m->rows > m->columns;
    float *direction = scratch + (int64_t)n * k, *square = direction + (int64_t)n * k;
    begin_muon(call, m, scratch);
    orthogonalize(call, scratch, direction, square, n, k, square + 4 * (int64_t)n * n);
    float step = call->lr * sqrtf(tall ? (float)m->rows / m->columns : 1);
    for (int64_t r = 0; r < m->rows; r++)
        for (int64_t c = 0; c < m->columns; c++) {
            float *weight = m->weight + r * m->columns + c;
            *weight = call->kept * *weight - step * direction[tall ? c * m->rows + r : r * m->columns + c];
        }
}

static void muon_region(worker *w, const void *given) {
    const muon_call *call = given;
    for (int item; (item = claim_item(w)) < call->matrix_count;) update_muon_matrix(call, call->matrices + item, w->scratch);
}

/* Muon (Jordan et al., 2024). An item is a matrix. Returns 0, or -1 without memory. */
EXPORT int update_muon(team *t, const muon_call *call) {
    size_t most = 0;
    for (int i = 0; i < call->matrix_count; i++) {
        size_t needed = muon_scratch(call->matrices + i);
        if (needed > most) most = needed;
    }
    if (reserve_scratch(t, most)) return -1;
    run_region(t, muon_region, call);
    return 0;
}
