/* scan FOLDER BATCH SEQLEN DIM DSTATE THREADS: Mamba's scan of float32 arrays that Python wrote by tofile. Writes FOLDER/out. */
#include <ssmcore.h>
#include <stdio.h>
#include <stdlib.h>

static const char *folder;

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

/* The bytes of an array, from or to the file of its name. */
static void move(ssmcore_array *a, const char *name, const char *mode) {
    char path[4096];
    size_t count = 1, done;
    for (int i = 0; i < a->ndim; i++) count *= (size_t)a->shape[i];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, mode);
    if (!file) fail(path);
    done = *mode == 'r' ? fread(a->data, sizeof(float), count, file) : fwrite(a->data, sizeof(float), count, file);
    if (done != count || fclose(file)) fail(path);
}

/* A float32 array in C order. Axes of length 0 end its shape. */
static ssmcore_array make(int64_t a, int64_t b, int64_t c, int64_t d) {
    ssmcore_array made = {.type = SSMCORE_FLOAT32, .shape = {a, b, c, d}};
    int64_t count = 1;
    while (made.ndim < 4 && made.shape[made.ndim]) made.ndim++;
    for (int i = made.ndim; i-- > 0; count *= made.shape[i]) made.strides[i] = count;
    made.data = malloc((size_t)count * sizeof(float));
    if (!made.data) fail("no memory");
    return made;
}

static ssmcore_array take(const char *name, int64_t a, int64_t b, int64_t c, int64_t d) {
    ssmcore_array made = make(a, b, c, d);
    move(&made, name, "rb");
    return made;
}

int main(int argc, char **argv) {
    if (argc != 7) fail("usage: scan FOLDER BATCH SEQLEN DIM DSTATE THREADS");
    folder = argv[1];
    int64_t batch = atoll(argv[2]), seqlen = atoll(argv[3]), dim = atoll(argv[4]), dstate = atoll(argv[5]);
    ssmcore_array u = take("u", batch, seqlen, dim, 0), delta = take("delta", batch, seqlen, dim, 0), A = take("A", dim, dstate, 0, 0);
    ssmcore_array B = take("B", batch, seqlen, 1, dstate), C = take("C", batch, seqlen, 1, dstate), out = make(batch, seqlen, dim, 0);
    ssmcore_selective_scan_args args = {.size = sizeof args, .delta_softplus = 1, .u = &u, .delta = &delta, .A = &A, .B = &B, .C = &C, .out = &out};
    ssmcore_options options = {.size = sizeof options, .num_threads = atoi(argv[6])};
    if (ssmcore_selective_scan(&args, &options)) fail(ssmcore_error());
    move(&out, "out", "wb");
    printf("ssmcore %s: %lld steps of %lld channels\n", ssmcore_version(), (long long)seqlen, (long long)dim);
    return 0;
}
