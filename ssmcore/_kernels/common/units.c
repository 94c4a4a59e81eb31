/* The threads of all kernels: one small pool.
 *
 * A call puts a job into a list and works at it itself. Helpers, threads that wait, join it, and all take units from one counter. A helper
 * that another process keeps off its processor delays nothing but the unit it holds. Waiting threads spin for SPIN_NS, and then sleep. After
 * a fork the child has no helpers and hires its own. A call may bring its program's own threads in place of the pool. */
#define _GNU_SOURCE
#include "units.h"
#include <stdatomic.h>
#include <stdlib.h>

#if defined(__unix__) || defined(__APPLE__)
#define HAVE_THREADS 1
#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#else
#define HAVE_THREADS 0
#endif

int32_t ssmcore_has_threads(void) { return HAVE_THREADS; }

void *ssm_allocate(const ssm_workers *workers, size_t bytes) {
    return workers->allocate ? workers->allocate(workers->memory, bytes) : malloc(bytes);
}

void ssm_release(const ssm_workers *workers, void *block, size_t bytes) {
    if (workers->release)
        workers->release(workers->memory, block, bytes);
    else if (!workers->allocate)
        free(block);
}

#if HAVE_THREADS
#if defined(__linux__)
/* A helper must not wake on the caller's processor, where it would wait behind the caller until the scheduler moves it, some milliseconds
 * later. It is called to the others, and free to go anywhere as soon as it runs. */
typedef cpu_set_t place_set;

static int elsewhere(place_set *home, place_set *others) {
    int here = sched_getcpu();
    if (here < 0 || pthread_getaffinity_np(pthread_self(), sizeof *home, home)) return 0;
    *others = *home;
    CPU_CLR(here, others);
    return CPU_COUNT(others) > 0;
}

static void send(pthread_t thread, const place_set *places) { pthread_setaffinity_np(thread, sizeof *places, places); }
#else
typedef int place_set;

static int elsewhere(place_set *home, place_set *others) { return *home = *others = 0; }

static void send(pthread_t thread, const place_set *places) { (void)thread, (void)places; }
#endif
#endif

typedef struct job {
    const void *task;
    ssm_unit *work;
    int64_t units, scratch;
    char *arena;
    _Atomic int64_t next; /* unit */
    _Atomic int helpers;  /* that work at it */
    /* guarded by `lock`: */
    int places, joined; /* for helpers: free, and taken so far */
    struct job *following;
#if HAVE_THREADS
    fenv_t environment; /* of the caller: denormals must be treated alike by all threads */
#endif
} job;

static void work_at(job *one, int place) {
    char *scratch = one->arena + place * one->scratch;
    for (int64_t i; (i = atomic_fetch_add_explicit(&one->next, 1, memory_order_relaxed)) < one->units;) one->work(one->task, i, scratch);
}

#if HAVE_THREADS
enum { SPIN_NS = 200000 }; /* several times what a sleeping thread takes to wake: calls that follow one another find helpers awake */

typedef struct helper {
    pthread_t thread;
    pthread_cond_t called;
    int awake;
    int sent;       /* whether it was called to other processors than the caller's */
    place_set home; /* where the caller may run, and so this helper */
    struct helper *below;
} helper;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t left = PTHREAD_COND_INITIALIZER; /* a helper left a job as its last one */
static job *jobs;                                      /* that helpers may join, the oldest first */
static helper *asleep;                                 /* the one that fell asleep last on top */
static int hired, busy;                                /* helpers: all, and those at a job */
static _Atomic unsigned posts;                         /* counts jobs */

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void rest(void) {
    for (int i = 0; i < 32; i++) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    }
}

#define SPIN_WHILE(condition) \
    for (int64_t until = now_ns() + SPIN_NS; (condition) && now_ns() < until;) rest()

static void *help(void *given) {
    helper *self = given;
    pthread_mutex_lock(&lock);
    self->thread = pthread_self();
    for (;;) {
        job *one = jobs;
        while (one && !one->places) one = one->following;
        if (!one) {
            unsigned seen = atomic_load(&posts);
            pthread_mutex_unlock(&lock);
            SPIN_WHILE(atomic_load(&posts) == seen);
            pthread_mutex_lock(&lock);
            if (atomic_load(&posts) != seen) continue;
            self->awake = 0;
            self->below = asleep;
            asleep = self;
            while (!self->awake) pthread_cond_wait(&self->called, &lock);
            if (self->sent) { /* nobody else looks at a helper that is awake */
                pthread_mutex_unlock(&lock);
                send(self->thread, &self->home);
                pthread_mutex_lock(&lock);
            }
            continue;
        }
        one->places--;
        busy++;
        int place = ++one->joined;
        atomic_fetch_add(&one->helpers, 1);
        pthread_mutex_unlock(&lock);
        fesetenv(&one->environment);
        work_at(one, place);
        pthread_mutex_lock(&lock);
        busy--;
        /* the caller may return as soon as it sees 0: `one` is not touched after */
        if (atomic_fetch_sub(&one->helpers, 1) == 1) pthread_cond_broadcast(&left);
    }
    return NULL;
}

/* Hires helpers, so that every place of every job can be taken, but no more than the processors, or than one call asked for. A helper
 * that cannot be had is done without. */
static void hire(int wanted) {
    int places = busy, most = (int)sysconf(_SC_NPROCESSORS_ONLN) - 1;
    for (const job *one = jobs; one; one = one->following) places += one->places;
    if (most < wanted) most = wanted;
    if (places > most) places = most;
    if (hired >= places) return;
    sigset_t all, before;
    pthread_attr_t attributes;
    sigfillset(&all);
    if (pthread_attr_init(&attributes)) return;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 1 << 20);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the program's own threads' to handle */
    while (hired < places) {
        helper *one = calloc(1, sizeof *one);
        pthread_t thread;
        if (!one) break;
        pthread_cond_init(&one->called, NULL);
        if (pthread_create(&thread, &attributes, help, one)) {
            free(one);
            break;
        }
        hired++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

static void share(job *one, int helpers) {
    place_set home, others;
    one->places = helpers;
    pthread_mutex_lock(&lock);
    int sent = asleep && elsewhere(&home, &others);
    job **end = &jobs;
    while (*end) end = &(*end)->following;
    *end = one;
    hire(helpers);
    atomic_fetch_add(&posts, 1);
    for (helper *next; helpers-- && (next = asleep);) {
        asleep = next->below;
        next->awake = 1;
        next->sent = sent;
        if (sent) {
            next->home = home;
            send(next->thread, &others);
        }
        pthread_cond_signal(&next->called);
    }
    pthread_mutex_unlock(&lock);
    work_at(one, 0);
    pthread_mutex_lock(&lock);
    for (end = &jobs; *end != one;) end = &(*end)->following;
    *end = one->following;
    if (atomic_load(&one->helpers)) {
        pthread_mutex_unlock(&lock);
        SPIN_WHILE(atomic_load(&one->helpers));
        pthread_mutex_lock(&lock);
        while (atomic_load(&one->helpers)) pthread_cond_wait(&left, &lock);
    }
    pthread_mutex_unlock(&lock);
}

/* A place at a job for a thread of the program's. It gets its own treatment of denormals back. */
static void join(void *given, int32_t place) {
    job *one = given;
    fenv_t before;
    fegetenv(&before);
    fesetenv(&one->environment);
    work_at(one, place);
    fesetenv(&before);
}

static void before_fork(void) { pthread_mutex_lock(&lock); }

static void in_parent(void) { pthread_mutex_unlock(&lock); }

static void in_child(void) {
    jobs = NULL;
    asleep = NULL;
    hired = busy = 0;
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&left, NULL);
}

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(before_fork, in_parent, in_child); }
#endif

#if !HAVE_THREADS
static void join(void *given, int32_t place) { work_at(given, place); }
#endif

int ssm_run_units(const void *task, int64_t units, const ssm_workers *workers, int64_t cost, int64_t scratch, ssm_unit *work) {
    if (units == 0) return 0;
    int64_t threads = workers->threads < units ? workers->threads : units;
    if (threads > 1) {
        int64_t worth = cost / workers->work_per_thread;
        if (threads > worth) threads = worth > 1 ? worth : 1;
    }
    if (!HAVE_THREADS && !workers->parallel_for) threads = 1;
    scratch = (scratch + 63) / 64 * 64;
    if (threads > 1) scratch = (scratch + 4095) / 4096 * 4096; /* no page is two threads' */
    size_t bytes = (size_t)(scratch * threads + 64);
    char *raw = ssm_allocate(workers, bytes);
    if (!raw) return SSMCORE_ERROR_MEMORY;
    job one;
    one.task = task;
    one.work = work;
    one.units = units;
    one.scratch = scratch;
    one.arena = (char *)(((uintptr_t)raw + 63) / 64 * 64);
    atomic_init(&one.next, 0);
    atomic_init(&one.helpers, 0);
    one.places = one.joined = 0;
    one.following = NULL;
    if (threads == 1) {
        work_at(&one, 0);
    } else {
#if HAVE_THREADS
        fegetenv(&one.environment);
        if (!workers->parallel_for) share(&one, (int)threads - 1);
#endif
        if (workers->parallel_for) workers->parallel_for(workers->pool, (int32_t)threads, join, &one);
    }
    ssm_release(workers, raw, bytes);
    return 0;
}
