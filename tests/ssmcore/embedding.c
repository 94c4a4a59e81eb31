/* Replays calls that Python wrote into a file: a program outside Python that calls every operation. c_calls.py compiles and feeds it. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ssmcore.h"

/* What a word of a struct is; c_calls.py numbers them alike. All structs of ssmcore.h are words of 8 bytes. */
enum { VALUE, ARRAY, FORWARD, IN_TURN, OWN_THREADS, ALLOCATE, RELEASE, COUNTS };
enum { ARGS, FORWARD_ARGS, OPTIONS, STRUCTS, MOST_ARRAYS = 32, MOST_THREADS = 64 };

typedef struct {
    int64_t kind, value;
} word;

typedef struct {
    char operation[32];
    int64_t words[STRUCTS]; /* -1: the struct is NULL */
    int64_t arrays;
    int64_t fail; /* once for each allocation, which fails, and then without a failure */
} call;

typedef struct {
    int64_t type, ndim, shape[SSMCORE_MAX_NDIM], strides[SSMCORE_MAX_NDIM];
    int64_t bytes, offset; /* of memory; of the first element in it, -1: data is NULL */
} view;

/* Of the caller's threads and memory. */
static struct {
    int64_t shared, most, wrong; /* calls of parallel_for, the largest count, and threads that could not be had */
    int64_t taken, held, held_bytes, fail_at;
} counts;

typedef struct {
    ssmcore_task *task;
    void *user;
    int32_t index;
} member;

static void count_call(void *pool, int32_t count) {
    if (pool != &counts || count < 1 || count > MOST_THREADS) counts.wrong++;
    counts.shared++;
    if (count > counts.most) counts.most = count;
}

static void in_turn(void *pool, int32_t count, ssmcore_task *task, void *user) {
    count_call(pool, count);
    while (count-- > 0) task(user, count);
}

static void *take_part(void *given) {
    member *one = (member *)given;
    one->task(one->user, one->index);
    return NULL;
}

static void own_threads(void *pool, int32_t count, ssmcore_task *task, void *user) {
    pthread_t threads[MOST_THREADS];
    member members[MOST_THREADS];
    count_call(pool, count);
    for (int32_t i = 0; i < count; i++) {
        members[i].task = task, members[i].user = user, members[i].index = i;
        if (pthread_create(&threads[i], NULL, take_part, &members[i])) abort();
    }
    for (int32_t i = 0; i < count; i++) pthread_join(threads[i], NULL);
}

static void *allocate(void *memory, size_t bytes) {
    if (memory != &counts) counts.wrong++;
    if (++counts.taken == counts.fail_at) return NULL;
    counts.held++;
    counts.held_bytes += (int64_t)bytes;
    void *block = malloc(bytes);
    if (block) memset(block, 0xff, bytes); /* NaN of any type */
    return block;
}

static void release(void *memory, void *block, size_t bytes) {
    if (memory != &counts) counts.wrong++;
    counts.held--;
    counts.held_bytes -= (int64_t)bytes;
    free(block);
}

#define CALL(name) \
    static int call_##name(const void *args, const ssmcore_options *options) { return ssmcore_##name((const ssmcore_##name##_args *)args, options); }
SSMCORE_OPERATIONS(CALL)
#define ENTRY(name) {#name, call_##name},
static const struct {
    const char *name;
    int (*call)(const void *args, const ssmcore_options *options);
} operations[] = {SSMCORE_OPERATIONS(ENTRY)};

static void get(void *to, size_t bytes, FILE *file) {
    if (bytes && fread(to, bytes, 1, file) != 1) exit(2);
}

static void put(const void *from, size_t bytes, FILE *file) {
    if (bytes && fwrite(from, bytes, 1, file) != 1) exit(3);
}

static uint64_t address_of(word w, ssmcore_array *arrays, void *forward) {
    void (*function)(void) = NULL;
    uint64_t bits = 0;
    switch (w.kind) {
    case VALUE: return (uint64_t)w.value;
    case ARRAY: return (uint64_t)(uintptr_t)&arrays[w.value];
    case FORWARD: return (uint64_t)(uintptr_t)forward;
    case COUNTS: return (uint64_t)(uintptr_t)&counts;
    case IN_TURN: function = (void (*)(void))in_turn; break;
    case OWN_THREADS: function = (void (*)(void))own_threads; break;
    case ALLOCATE: function = (void (*)(void))allocate; break;
    case RELEASE: function = (void (*)(void))release; break;
    }
    memcpy(&bits, &function, sizeof function);
    return bits;
}

int main(int argc, char **argv) {
    FILE *from = argc == 3 ? fopen(argv[1], "rb") : NULL, *to = argc == 3 ? fopen(argv[2], "wb") : NULL;
    call c;
    if (!from || !to || sizeof(void *) != 8 || sizeof(ssmcore_options) != 64) return 4;
    while (fread(&c, sizeof c, 1, from) == 1) {
        ssmcore_array arrays[MOST_ARRAYS];
        view views[MOST_ARRAYS];
        char *memory[MOST_ARRAYS], *before[MOST_ARRAYS];
        uint64_t *structs[STRUCTS] = {NULL};
        word *words[STRUCTS] = {NULL};
        for (int64_t i = 0; i < c.arrays; i++) {
            get(&views[i], sizeof views[i], from);
            size_t bytes = (size_t)views[i].bytes;
            memory[i] = (char *)malloc(bytes); /* no more than there is, so that AddressSanitizer sees what goes beyond */
            before[i] = (char *)malloc(bytes);
            get(before[i], bytes, from);
            arrays[i].data = views[i].offset < 0 ? NULL : memory[i] + views[i].offset;
            arrays[i].type = (int32_t)views[i].type;
            arrays[i].ndim = (int32_t)views[i].ndim;
            memcpy(arrays[i].shape, views[i].shape, sizeof views[i].shape);
            memcpy(arrays[i].strides, views[i].strides, sizeof views[i].strides);
        }
        for (int which = 0; which < STRUCTS; which++) {
            if (c.words[which] < 0) continue;
            words[which] = (word *)malloc((size_t)c.words[which] * sizeof(word));
            structs[which] = (uint64_t *)malloc((size_t)c.words[which] * sizeof(uint64_t));
            get(words[which], (size_t)c.words[which] * sizeof(word), from);
        }
        for (int which = 0; which < STRUCTS; which++)
            for (int64_t i = 0; i < c.words[which]; i++) structs[which][i] = address_of(words[which][i], arrays, structs[FORWARD_ARGS]);
        int (*function)(const void *, const ssmcore_options *) = NULL;
        for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
            if (!strcmp(operations[i].name, c.operation)) function = operations[i].call;
        if (!function) return 5;
        int64_t status, tries = 0;
        memset(&counts, 0, sizeof counts);
        do {
            for (int64_t i = 0; i < c.arrays; i++) memcpy(memory[i], before[i], (size_t)views[i].bytes);
            counts.taken = 0;
            counts.fail_at = c.fail ? ++tries : 0;
            status = function(structs[ARGS], (const ssmcore_options *)structs[OPTIONS]);
            if (counts.held) counts.wrong++;
        } while (c.fail && status == SSMCORE_ERROR_MEMORY && strstr(ssmcore_error(), "no memory"));
        const char *text = status ? ssmcore_error() : "";
        int64_t length = (int64_t)strlen(text);
        const int64_t report[] = {status, tries, counts.shared, counts.most, counts.wrong, counts.taken, counts.held, counts.held_bytes, length};
        put(report, sizeof report, to);
        put(text, (size_t)length, to);
        for (int64_t i = 0; i < c.arrays; i++) {
            put(memory[i], (size_t)views[i].bytes, to);
            free(memory[i]);
            free(before[i]);
        }
        for (int which = 0; which < STRUCTS; which++) {
            free(words[which]);
            free(structs[which]);
        }
    }
    return fclose(from) | fclose(to) ? 6 : 0;
}
