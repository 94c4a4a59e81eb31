/* Scans of scalar decays by chunks. */
#include "api.h"
#include "frame.h"

static const char HEADS[] = "batch seqlen nheads headdim", STEPS[] = "batch seqlen nheads", MATRIX[] = "batch seqlen ngroups dstate";
static const char STATE[] = "batch nheads headdim dstate", CHECKPOINTS[] = "batch chunks nheads dstate headdim", SKIP[] = "nheads headdim";

static ssm_rows rows_of(const ssmcore_array *a) { return (ssm_rows){a->data, a->strides[0], a->strides[1], a->strides[2]}; }

/* Heads a unit covers: few enough that there are units to share out, else several, which share the product of C and B. */
static int64_t head_block(int64_t batch, int64_t nheads, int64_t ngroups) {
    int64_t block = batch * nheads / 8 < 4 ? batch * nheads / 8 : 4, most = nheads / ngroups;
    if (block > most) block = most;
    return block > 1 ? block : 1;
}

/* Returns whether there is work. */
static int take(ssm_frame *f, ssmcore_chunk_scan_args *a, ssm_chunks *chunks) {
    ssm_take(f, "x", &a->x, HEADS, SSM_ADJACENT);
    ssm_take(f, "dt", &a->dt, STEPS, SSM_PACKED);
    ssm_take(f, "A", &a->A, "nheads", SSM_PACKED);
    ssm_take(f, "B", &a->B, MATRIX, SSM_ADJACENT);
    ssm_take(f, "C", &a->C, MATRIX, SSM_ADJACENT);
    ssm_take(f, "D", &a->D, SKIP, SSM_OPTIONAL | SSM_PACKED);
    ssm_take(f, "initial_state", &a->initial_state, STATE, SSM_OPTIONAL | SSM_PACKED);
    ssm_check(f, "starts", a->starts, "batch seqlen", SSM_OPTIONAL);
    if (f->status) return 0;
    *chunks = (ssm_chunks){0};
    chunks->batch = ssm_size(f, "batch");
    chunks->seqlen = ssm_size(f, "seqlen");
    chunks->nheads = ssm_size(f, "nheads");
    chunks->headdim = ssm_size(f, "headdim");
    chunks->ngroups = ssm_size(f, "ngroups");
    chunks->dstate = ssm_size(f, "dstate");
    ssm_bind(f, "chunks", (chunks->seqlen + SSMCORE_CHUNK - 1) / SSMCORE_CHUNK);
    if (chunks->dstate < 1)
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "B: expected a dstate of at least 1, got 0; use a state of one entry and B = 0 for none");
    else if (chunks->ngroups < 1 || chunks->nheads % chunks->ngroups)
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "B: expected a number of groups that divides nheads = %lld, got %lld; head h reads group h / "
                 "(nheads / ngroups)", (long long)chunks->nheads, (long long)chunks->ngroups);
    else if (a->starts && a->starts->type != SSMCORE_UINT8)
        ssm_fail(f, SSMCORE_ERROR_ARGUMENT, "starts: expected SSMCORE_UINT8, got %d; convert it", (int)a->starts->type);
    if (f->status) return 0;
    if (a->starts) {
        ssmcore_array *packed = ssm_make(f, SSMCORE_UINT8, 2, a->starts->shape);
        ssm_copy(f, packed, a->starts, 1);
        if (packed) chunks->starts = packed->data;
    }
    chunks->block = head_block(chunks->batch, chunks->nheads, chunks->ngroups);
    chunks->workers = &f->workers;
    chunks->x = rows_of(a->x);
    chunks->B = rows_of(a->B);
    chunks->C = rows_of(a->C);
    chunks->dt = a->dt->data;
    chunks->A = a->A->data;
    chunks->D = ssm_start(a->D);
    return ssm_count(a->x) > 0;
}

/* What a state becomes where there is no step. */
static void hand_on(ssm_frame *f, const ssmcore_array *to, const ssmcore_array *from) {
    if (f->status || !to) return;
    if (from)
        ssm_copy(f, to, from, 1);
    else
        ssm_zero(to);
}

int ssmcore_chunk_scan(const ssmcore_chunk_scan_args *args, const ssmcore_options *options) {
    ssmcore_chunk_scan_args a;
    ssm_frame f;
    ssm_chunks chunks;
    if (ssm_open(&f, "chunk_scan", options, args, &a, sizeof a)) return f.status;
    int work = take(&f, &a, &chunks);
    ssm_give(&f, "out", &a.out, HEADS, SSM_PACKED);
    ssm_give(&f, "last_state", &a.last_state, STATE, SSM_PACKED | SSM_MADE);
    ssm_give(&f, "checkpoints", &a.checkpoints, CHECKPOINTS, SSM_OPTIONAL | SSM_PACKED);
    if (work && !f.status) {
        chunks.initial = ssm_start(a.initial_state);
        chunks.out = a.out->data;
        chunks.last = a.last_state->data;
        chunks.kept = ssm_start(a.checkpoints);
        ssm_ran(&f, ssm_chunks_fwd(&chunks, f.isa, ssm_is_double(&f)));
    } else {
        hand_on(&f, a.last_state, a.initial_state);
    }
    return ssm_close(&f);
}

int ssmcore_chunk_scan_vjp(const ssmcore_chunk_scan_vjp_args *args, const ssmcore_options *options) {
    ssmcore_chunk_scan_vjp_args g;
    ssmcore_chunk_scan_args a;
    ssm_frame f;
    ssm_chunks chunks;
    if (ssm_open(&f, "chunk_scan_vjp", options, args, &g, sizeof g) || ssm_open_forward(&f, g.forward, &a, sizeof a)) return f.status;
    int work = take(&f, &a, &chunks);
    ssm_take(&f, "checkpoints", &a.checkpoints, CHECKPOINTS, SSM_PACKED);
    ssm_take(&f, "dout", &g.dout, HEADS, SSM_ADJACENT);
    ssm_take(&f, "dlast_state", &g.dlast_state, STATE, SSM_OPTIONAL | SSM_PACKED);
    if (f.status) return ssm_close(&f);
    int64_t parts = work ? chunks.batch : 0, nblocks = work ? (chunks.nheads / chunks.ngroups + chunks.block - 1) / chunks.block : 0;
    ssm_give(&f, "dx", &g.dx, HEADS, SSM_PACKED | SSM_MADE);
    ssm_give(&f, "ddt", &g.ddt, STEPS, SSM_PACKED | SSM_MADE);
    chunks.dA = ssm_give_parts(&f, "dA", g.dA, "nheads", parts);
    chunks.dB = ssm_give_parts(&f, "dB", g.dB, MATRIX, nblocks);
    chunks.dC = ssm_give_parts(&f, "dC", g.dC, MATRIX, nblocks);
    if (a.D) chunks.dD = ssm_give_parts(&f, "dD", g.dD, SKIP, parts);
    ssm_give(&f, "dinitial_state", &g.dinitial_state, STATE, SSM_PACKED | SSM_MADE);
    if (work && !f.status) {
        chunks.kept = a.checkpoints->data;
        chunks.dout = rows_of(g.dout);
        chunks.dlast = ssm_start(g.dlast_state);
        chunks.dx = g.dx->data;
        chunks.ddt = g.ddt->data;
        chunks.dinitial = g.dinitial_state->data;
        ssm_ran(&f, ssm_chunks_bwd(&chunks, f.isa, ssm_is_double(&f)));
    } else if (!f.status) {
        ssm_zero(g.ddt);
        hand_on(&f, g.dinitial_state, g.dlast_state);
    }
    return ssm_close(&f);
}
