/* The kernels as a Python extension: it checks arguments and calls kernels, without the interpreter's lock. */
#define PY_SSIZE_T_CLEAN
#define _FILE_OFFSET_BITS 64
#define _GNU_SOURCE /* pwrite */
#define Py_LIMITED_API 0x030b0000 /* Python 3.11 */
#include <Python.h>

#include <errno.h>
#include <string.h>
#if !defined(_WIN32)
#include <unistd.h>
#endif
#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#endif

#include "gram.h"
#include "kernels.h"
#include "products.h"
#include "xxh3.h"

static const struct variant *chosen = &variant_plain;

static const size_t SIZES[DTYPE_COUNT] = {8, 4, 2, 2, 1, 1};

#if defined(__x86_64__) && defined(__GNUC__)
/* Return 1 if the processor has AVX2 and F16C, 2 if also AVX-512 F, BW, DQ and VL, and the system saves their registers.
 * This asks the processor itself, as not every compiler has a function for it. */
static int widest(void) {
    unsigned int a, b, c, d, kept, unused;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const unsigned int osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    if ((c & (osxsave | avx | f16c)) != (osxsave | avx | f16c)) return 0;
    __asm__("xgetbv" : "=a"(kept), "=d"(unused) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    const unsigned int avx2 = 1u << 5, avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    if ((kept & 0x6) != 0x6 || !(b & avx2)) return 0;
    return (kept & 0xe6) == 0xe6 && (b & avx512) == avx512 ? 2 : 1;
}
#endif

/* The variants that this processor can run, best first; ends with NULL. */
static const struct variant *const *runnable(void) {
    static const struct variant *found[4];
    size_t count = 0;
#if defined(__x86_64__) && defined(__GNUC__)
    const int width = widest();
    if (width >= 2) found[count++] = &variant_avx512;
    if (width >= 1) found[count++] = &variant_avx2;
#elif defined(__aarch64__)
    found[count++] = &variant_neon;
#endif
    found[count++] = &variant_plain;
    found[count] = NULL;
    return found;
}

static PyObject *variants(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) {
    PyObject *names = PyList_New(0);
    for (const struct variant *const *each = runnable(); names != NULL && *each != NULL; each++) {
        PyObject *name = PyUnicode_FromString((*each)->name);
        if (name == NULL || PyList_Append(names, name) < 0) Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static PyObject *choose(PyObject *Py_UNUSED(module), PyObject *arguments) {
    const char *name;
    if (!PyArg_ParseTuple(arguments, "s", &name)) return NULL;
    for (const struct variant *const *each = runnable(); *each != NULL; each++)
        if (strcmp((*each)->name, name) == 0) {
            chosen = *each;
            Py_RETURN_NONE;
        }
    return PyErr_Format(PyExc_ValueError, "this processor has no variant '%s'", name);
}

/* Buffers held for the time of a call. */
struct held {
    Py_buffer buffers[3 * MOST_INPUTS + 4];
    size_t count;
};

static Py_buffer *hold(struct held *held, PyObject *object, int flags) {
    Py_buffer *buffer = &held->buffers[held->count];
    if (PyObject_GetBuffer(object, buffer, flags) < 0) return NULL;
    held->count++;
    return buffer;
}

static void let_go(struct held *held) {
    while (held->count > 0) PyBuffer_Release(&held->buffers[--held->count]);
}

/* Return the state of a hash that `xxh3_begin` has made; NULL, with an exception, if it can't be one. */
static struct xxh3_state *take_hash(struct held *held, PyObject *object, int flags) {
    const Py_buffer *buffer = hold(held, object, flags);
    if (buffer == NULL) return NULL;
    struct xxh3_state *state = buffer->buf;
    if (buffer->len >= (Py_ssize_t)sizeof *state && (uintptr_t)buffer->buf % sizeof(uint64_t) == 0 &&
        state->waiting <= XXH3_WAITING && state->waiting <= state->size &&
        (state->waiting > 0 || state->size == 0) && (state->size > XXH3_WAITING || state->waiting == state->size))
        return state;
    PyErr_SetString(PyExc_ValueError, "this is no state of a hash");
    return NULL;
}

/* Read the scales of `count` elements: (buffer, dtype, columns, rows of a block, columns of a block, the index of the first
 * element). */
static int take_scales(struct held *held, PyObject *given, Py_ssize_t count, struct scales *scales) {
    PyObject *object;
    int dtype;
    unsigned long long columns, block_rows, block_columns, first;
    if (given == Py_None) return 0;
    if (!PyTuple_Check(given)) {
        PyErr_SetString(PyExc_ValueError, "scales must be a tuple");
        return -1;
    }
    if (!PyArg_ParseTuple(given, "OiKKKK", &object, &dtype, &columns, &block_rows, &block_columns, &first)) return -1;
    const Py_buffer *buffer = hold(held, object, PyBUF_SIMPLE);
    if (buffer == NULL) return -1;
    if (dtype < FLOAT64 || dtype > BFLOAT16 || columns == 0 || block_rows == 0 || block_columns == 0 ||
        block_columns > UINT64_MAX / 2 || columns > UINT64_MAX / 2 || first > UINT64_MAX / 2) {
        PyErr_SetString(PyExc_ValueError, "scales have another dtype, or no blocks");
        return -1;
    }
    *scales = (struct scales){buffer->buf, (enum dtype)dtype, columns, block_rows, block_columns, first};
    const uint64_t past = first + (uint64_t)count, rows = count == 0 ? 0 : (past - 1) / columns / block_rows + 1;
    const uint64_t across = (columns - 1) / block_columns + 1, there = (uint64_t)buffer->len / SIZES[dtype];
    if (rows == 0 || rows <= there / across) return 0;
    PyErr_SetString(PyExc_ValueError, "there are too few scales");
    return -1;
}

/* Read inputs from a tuple of tuples: a buffer of at least `count` elements, a dtype's number, and perhaps a hash's state
 * and the scales of the elements. */
static int take_inputs(struct held *held, PyObject *pairs, Py_ssize_t count, struct source *sources, size_t *taken) {
    const Py_ssize_t length = PyTuple_Check(pairs) ? PyTuple_Size(pairs) : -1;
    if (length < 0 || length > MOST_INPUTS) {
        PyErr_Format(PyExc_ValueError, "inputs must be a tuple of at most %d", MOST_INPUTS);
        return -1;
    }
    if (count < 0) {
        PyErr_SetString(PyExc_ValueError, "a negative count");
        return -1;
    }
    for (Py_ssize_t index = 0; index < length; index++) {
        PyObject *object, *state = Py_None, *scales = Py_None;
        int dtype;
        if (!PyTuple_Check(PyTuple_GetItem(pairs, index))) {
            PyErr_SetString(PyExc_ValueError, "an input must be a tuple");
            return -1;
        }
        if (!PyArg_ParseTuple(PyTuple_GetItem(pairs, index), "Oi|OO", &object, &dtype, &state, &scales)) return -1;
        const Py_buffer *buffer = hold(held, object, PyBUF_SIMPLE);
        if (buffer == NULL) return -1;
        struct xxh3_state *hash = state == Py_None ? NULL : take_hash(held, state, PyBUF_WRITABLE);
        if (hash == NULL && state != Py_None) return -1;
        if (dtype < 0 || dtype >= DTYPE_COUNT || buffer->len / (Py_ssize_t)SIZES[dtype] < count) {
            PyErr_SetString(PyExc_ValueError, "an input has another dtype, or fewer elements");
            return -1;
        }
        sources[index] = (struct source){.bytes = buffer->buf, .dtype = (enum dtype)dtype, .hash = hash};
        if (take_scales(held, scales, count, &sources[index].scales) < 0) return -1;
    }
    *taken = (size_t)length;
    return 0;
}

/* Read the first argument of all functions that run a kernel: (kernel, option, numbers, start, inputs, count). `row` is the
 * number of elements in a row for a kernel of rows, else 0. */
static int take_work_by(size_t row, struct held *held, PyObject *given, struct work *work, size_t *count) {
    const char *name;
    long long option;
    unsigned long long start;
    PyObject *numbers, *pairs;
    Py_ssize_t length;
    if (!PyTuple_Check(given)) {
        PyErr_SetString(PyExc_ValueError, "the kernel and what it is called with must be a tuple");
        return -1;
    }
    if (!PyArg_ParseTuple(given, "sLOKOn", &name, &option, &numbers, &start, &pairs, &length)) return -1;
    const struct named_kernel *kernel = row > 0 ? chosen->kernels_of_rows : chosen->kernels;
    while (kernel->name != NULL && strcmp(kernel->name, name) != 0) kernel++;
    if (kernel->name == NULL) {
        PyErr_Format(PyExc_ValueError, "there is no kernel '%s'", name);
        return -1;
    }
    const Py_buffer *packed = hold(held, numbers, PyBUF_SIMPLE);
    if (packed == NULL || take_inputs(held, pairs, length, work->inputs, &work->input_count) < 0) return -1;
    work->kernel = kernel->apply;
    work->call = (struct call){packed->buf, (size_t)packed->len / sizeof(float), option, start, row, NULL};
    work->odd = 0;
    work->rows = NULL;
    *count = (size_t)length;
    if (kernel->takes(&work->call, work->input_count)) return 0;
    PyErr_Format(PyExc_ValueError, "'%s' does not take these inputs and numbers", name);
    return -1;
}

static int take_work(struct held *held, PyObject *given, struct work *work, size_t *count) {
    return take_work_by(0, held, given, work, count);
}

/* Return the memory of a writable buffer of at least `size` bytes; NULL, with an exception, if it is too small. */
static void *take_room(struct held *held, PyObject *object, size_t size, size_t alignment) {
    const Py_buffer *room = hold(held, object, PyBUF_WRITABLE);
    if (room == NULL) return NULL;
    if ((size_t)room->len >= size && (uintptr_t)room->buf % alignment == 0) return room->buf;
    PyErr_SetString(PyExc_ValueError, "there is too little room");
    return NULL;
}

/* Return the scratch memory for a kernel of rows: its float64 values, then a tile of each input and of the result. */
static int take_rows(struct held *held, PyObject *object, struct work *work, size_t count) {
    const size_t row = work->call.row, tile = row > TILE ? row : TILE;
    if (row > SIZE_MAX / (16 * (MOST_INPUTS + 3)) || count % row != 0) {
        PyErr_SetString(PyExc_ValueError, "rows must be whole, and not too long");
        return -1;
    }
    const size_t own = ROW_ROOM(work->input_count, row), tiles = (work->input_count + 1) * tile;
    work->call.room = take_room(held, object, own * sizeof(double) + tiles * sizeof(float), sizeof(double));
    if (work->call.room == NULL) return -1;
    work->rows = (float *)(work->call.room + own);
    return 0;
}

/* apply(work, dtype, out, hash, odd, row, room) -> (nonfinite, overflowed) */
static PyObject *apply(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *given, *output, *state, *room;
    int dtype, odd;
    Py_ssize_t row;
    if (!PyArg_ParseTuple(arguments, "OiOOpnO", &given, &dtype, &output, &state, &odd, &row, &room)) return NULL;
    if (dtype < 0 || dtype >= DTYPE_COUNT || row < 0) {
        PyErr_SetString(PyExc_ValueError, "no dtype of an output has that number, or a row that length");
        return NULL;
    }
    struct held held = {.count = 0};
    struct work work;
    size_t count;
    PyObject *result = NULL;
    if (take_work_by((size_t)row, &held, given, &work, &count) < 0) goto end;
    if (row > 0 && take_rows(&held, room, &work, count) < 0) goto end;
    work.odd = odd;
    const Py_buffer *out = hold(&held, output, PyBUF_WRITABLE);
    if (out == NULL) goto end;
    struct xxh3_state *hash = state == Py_None ? NULL : take_hash(&held, state, PyBUF_WRITABLE);
    if (hash == NULL && state != Py_None) goto end;
    if ((size_t)out->len / SIZES[dtype] < count) {
        PyErr_SetString(PyExc_ValueError, "the output is too small");
        goto end;
    }
    struct seen seen;
    Py_BEGIN_ALLOW_THREADS
    seen = chosen->apply(&work, count, (enum dtype)dtype, out->buf, hash);
    Py_END_ALLOW_THREADS
    result = Py_BuildValue("KK", (unsigned long long)seen.nonfinite, (unsigned long long)seen.overflowed);
end:
    let_go(&held);
    return result;
}

#if !defined(_WIN32)
/* Locks that threads wait for without the interpreter's. */
#define LOCK "mergebuild.native.lock"

static void free_lock(PyObject *capsule) {
    PyThread_free_lock(PyCapsule_GetPointer(capsule, LOCK));
}

/* lock() -> a lock for `make` */
static PyObject *lock(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) {
    PyThread_type_lock made = PyThread_allocate_lock();
    if (made == NULL) return PyErr_NoMemory();
    PyObject *capsule = PyCapsule_New(made, LOCK, free_lock);
    if (capsule == NULL) PyThread_free_lock(made);
    return capsule;
}

/* Write all of `data`; return 0 or the number of the error. */
static int write_all(int file, const unsigned char *data, size_t size, int64_t offset) {
    for (size_t done = 0; done < size;) {
        const ssize_t written = pwrite(file, data + done, size - done, (off_t)(offset + (int64_t)done));
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return written < 0 ? errno : EIO;
        done += (size_t)written;
    }
    return 0;
}

/* Let a call begin `count` elements further on. */
static void move_on(struct work *work, size_t count) {
    work->call.start += count;
    for (size_t each = 0; each < work->input_count; each++) {
        work->inputs[each].bytes += count * SIZES[work->inputs[each].dtype];
        work->inputs[each].scales.first += count;
    }
}

/* make(work, dtype, odd, hash, file, offset, lock, block) -> (nonfinite, overflowed): elements are made in the memory of
 * `block`, as many at a time as it holds, and written to a file; only one thread at a time writes with the same lock. */
static PyObject *make(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *given, *state, *memory, *capsule;
    int dtype, odd, file;
    long long offset;
    if (!PyArg_ParseTuple(arguments, "OipOiLOO", &given, &dtype, &odd, &state, &file, &offset, &capsule, &memory))
        return NULL;
    if (dtype < 0 || dtype >= DTYPE_COUNT || offset < 0) {
        PyErr_SetString(PyExc_ValueError, "no dtype of an output has that number, or no place that offset");
        return NULL;
    }
    PyThread_type_lock writing = PyCapsule_GetPointer(capsule, LOCK);
    if (writing == NULL) return NULL;
    struct held held = {.count = 0};
    struct work work;
    size_t count;
    PyObject *result = NULL;
    if (take_work(&held, given, &work, &count) < 0) goto end;
    work.odd = odd;
    const size_t width = SIZES[dtype];
    const Py_buffer *block = hold(&held, memory, PyBUF_WRITABLE);
    if (block == NULL) goto end;
    struct xxh3_state *hash = state == Py_None ? NULL : take_hash(&held, state, PyBUF_WRITABLE);
    if (hash == NULL && state != Py_None) goto end;
    const size_t most = (size_t)block->len / width;
    if (most == 0 || count > (size_t)(INT64_MAX - offset) / width) {
        PyErr_SetString(PyExc_ValueError, "the block is too small, or the place too far");
        goto end;
    }
    struct seen seen = {0, 0};
    int error = 0;
    Py_BEGIN_ALLOW_THREADS
    for (size_t done = 0; done < count && error == 0;) {
        const size_t size = count - done < most ? count - done : most;
        const struct seen here = chosen->apply(&work, size, (enum dtype)dtype, block->buf, hash);
        seen.nonfinite += here.nonfinite;
        seen.overflowed += here.overflowed;
        PyThread_acquire_lock(writing, WAIT_LOCK);
        error = write_all(file, block->buf, size * width, offset + (int64_t)(done * width));
        PyThread_release_lock(writing);
        move_on(&work, size);
        done += size;
    }
    Py_END_ALLOW_THREADS
    if (error == 0)
        result = Py_BuildValue("KK", (unsigned long long)seen.nonfinite, (unsigned long long)seen.overflowed);
    else {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
    }
end:
    let_go(&held);
    return result;
}
#endif

/* The most histograms of one call. */
#define MOST_HISTOGRAMS 3
#define COUNTS (2 * 65536 * sizeof(uint32_t)) /* bytes of a histogram */

/* tally(work, ((upper, counts), ...), signed): count digits of keys */
static PyObject *tally(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *given, *pairs;
    int is_signed;
    if (!PyArg_ParseTuple(arguments, "OO!p", &given, &PyTuple_Type, &pairs, &is_signed)) return NULL;
    const Py_ssize_t histogram_count = PyTuple_Size(pairs);
    if (histogram_count > MOST_HISTOGRAMS) {
        PyErr_Format(PyExc_ValueError, "there must be at most %d histograms", MOST_HISTOGRAMS);
        return NULL;
    }
    struct held held = {.count = 0};
    struct work work;
    struct histogram histograms[MOST_HISTOGRAMS];
    size_t count;
    int is_right = take_work(&held, given, &work, &count) == 0;
    for (Py_ssize_t each = 0; is_right && each < histogram_count; each++) {
        int upper;
        PyObject *counts;
        is_right = PyArg_ParseTuple(PyTuple_GetItem(pairs, each), "iO", &upper, &counts);
        if (!is_right) break;
        histograms[each] = (struct histogram){upper, take_room(&held, counts, COUNTS, sizeof(uint32_t))};
        is_right = histograms[each].counts != NULL;
    }
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        chosen->tally(&work, count, is_signed, histograms, (size_t)histogram_count);
        Py_END_ALLOW_THREADS
    }
    let_go(&held);
    if (!is_right) return NULL;
    Py_RETURN_NONE;
}

/* digit_of(counts, wanted) -> (digit, how many of it are wanted, how many there are) */
static PyObject *digit_of(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *counts;
    unsigned long long wanted;
    if (!PyArg_ParseTuple(arguments, "OK", &counts, &wanted)) return NULL;
    struct held held = {.count = 0};
    uint64_t found[3];
    const uint32_t *room = take_room(&held, counts, COUNTS, sizeof(uint32_t));
    if (room != NULL) chosen->digit_of(room, wanted, found);
    let_go(&held);
    if (room == NULL) return NULL;
    return Py_BuildValue("KKK", (unsigned long long)found[0], (unsigned long long)found[1],
                         (unsigned long long)found[2]);
}

/* find(work, key, nth, signed) -> (how many elements have the key, the index in the call of the nth) */
static PyObject *find(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *given;
    int key, is_signed;
    unsigned long long nth;
    if (!PyArg_ParseTuple(arguments, "OiKp", &given, &key, &nth, &is_signed)) return NULL;
    struct held held = {.count = 0};
    struct work work;
    size_t count;
    uint64_t found = 0, index = 0;
    const int is_right = take_work(&held, given, &work, &count) == 0;
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        found = chosen->find(&work, count, is_signed, key, nth, &index);
        Py_END_ALLOW_THREADS
    }
    let_go(&held);
    if (!is_right) return NULL;
    return Py_BuildValue("KK", (unsigned long long)found, (unsigned long long)index);
}

/* keep_by_rank(work, length, behind, stream, least, step, room, kept, chances): write which elements are kept */
static PyObject *keep_by_rank(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *given, *room, *kept, *chances;
    Py_ssize_t length, behind;
    unsigned long long stream;
    double least, step;
    if (!PyArg_ParseTuple(arguments, "OnnKddOOO", &given, &length, &behind, &stream, &least, &step, &room, &kept,
                          &chances))
        return NULL;
    if (length <= 0 || behind <= 0 || length > INT32_MAX / behind) {
        PyErr_SetString(PyExc_ValueError, "rows have too few elements, or too many");
        return NULL;
    }
    struct held held = {.count = 0};
    struct work work;
    size_t count;
    const struct ranking ranking = {(size_t)length, (size_t)behind, stream, least, step};
    const size_t unit = ranking.length * ranking.behind;
    int is_right = take_work(&held, given, &work, &count) == 0;
    if (is_right && (count % unit != 0 || count > SIZE_MAX / sizeof(float))) {
        PyErr_SetString(PyExc_ValueError, "rows must be whole");
        is_right = 0;
    }
    uint64_t *rows = NULL;
    float *ones = NULL, *shares = NULL;
    if (is_right) {
        rows = take_room(&held, room, 2 * sizeof(uint64_t) * ranking.length + sizeof(uint32_t) * unit, sizeof(uint64_t));
        ones = rows != NULL ? take_room(&held, kept, sizeof(float) * count, sizeof(float)) : NULL;
        shares = ones != NULL && chances != Py_None
                     ? take_room(&held, chances, sizeof(float) * count, sizeof(float))
                     : NULL;
        is_right = ones != NULL && (chances == Py_None || shares != NULL);
    }
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        chosen->keep_by_rank(&work, count, &ranking, rows, ones, shares);
        Py_END_ALLOW_THREADS
    }
    let_go(&held);
    if (!is_right) return NULL;
    Py_RETURN_NONE;
}

/* sum_begin() -> the state of a sum, which is 0 */
static PyObject *sum_begin(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) {
    PyObject *room = PyByteArray_FromStringAndSize(NULL, sizeof(struct running_sum));
    if (room != NULL) memset(PyByteArray_AsString(room), 0, sizeof(struct running_sum));
    return room;
}

/* sum_magnitudes(work, sum): add the magnitudes of the values that a kernel makes */
static PyObject *sum_magnitudes(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *given, *sum;
    if (!PyArg_ParseTuple(arguments, "OO", &given, &sum)) return NULL;
    struct held held = {.count = 0};
    struct work work;
    size_t count;
    struct running_sum *room = NULL;
    if (take_work(&held, given, &work, &count) == 0)
        room = take_room(&held, sum, sizeof(struct running_sum), sizeof(double));
    if (room != NULL && room->fill >= SUM_BLOCK) {
        PyErr_SetString(PyExc_ValueError, "that is no sum");
        room = NULL;
    }
    if (room != NULL) {
        Py_BEGIN_ALLOW_THREADS
        chosen->sum_magnitudes(&work, count, room);
        Py_END_ALLOW_THREADS
    }
    let_go(&held);
    if (room == NULL) return NULL;
    Py_RETURN_NONE;
}

/* sum_squares(work, (first, second), sum): add the squares of differences, each times a value that a kernel makes */
static PyObject *sum_squares(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *given, *pair, *sum;
    if (!PyArg_ParseTuple(arguments, "OOO", &given, &pair, &sum)) return NULL;
    struct held held = {.count = 0}, others = {.count = 0};
    struct work work;
    struct source sources[MOST_INPUTS];
    size_t count, taken = 0;
    struct running_sum *room = NULL;
    if (take_work(&held, given, &work, &count) == 0 &&
        take_inputs(&others, pair, (Py_ssize_t)count, sources, &taken) == 0)
        room = take_room(&held, sum, sizeof(struct running_sum), sizeof(double));
    if (room != NULL && (taken != 2 || room->fill >= SUM_BLOCK)) {
        PyErr_SetString(PyExc_ValueError, "that is no sum, or there are not two inputs");
        room = NULL;
    }
    if (room != NULL) {
        Py_BEGIN_ALLOW_THREADS
        chosen->sum_squares(&work, count, &sources[0], &sources[1], room);
        Py_END_ALLOW_THREADS
    }
    let_go(&others);
    let_go(&held);
    if (room == NULL) return NULL;
    Py_RETURN_NONE;
}

/* sum_end(sum) -> its value; nothing can be added afterwards */
static PyObject *sum_end(PyObject *Py_UNUSED(module), PyObject *sum) {
    struct held held = {.count = 0};
    struct running_sum *room = take_room(&held, sum, sizeof(struct running_sum), sizeof(double));
    PyObject *result = NULL;
    if (room != NULL && room->fill < SUM_BLOCK) result = PyFloat_FromDouble(chosen->total_of(room));
    else if (room != NULL) PyErr_SetString(PyExc_ValueError, "that is no sum");
    let_go(&held);
    return result;
}

/* count_nonfinite(buffer, dtype, count) -> how many */
static PyObject *count_nonfinite(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *pairs;
    Py_ssize_t count;
    if (!PyArg_ParseTuple(arguments, "On", &pairs, &count)) return NULL;
    struct held held = {.count = 0};
    struct source source[MOST_INPUTS];
    size_t taken = 0;
    PyObject *result = NULL;
    if (take_inputs(&held, pairs, count, source, &taken) == 0) {
        uint64_t found = 0;
        Py_BEGIN_ALLOW_THREADS
        for (size_t each = 0; each < taken; each++) found += chosen->count_nonfinite(&source[each], (size_t)count);
        Py_END_ALLOW_THREADS
        result = PyLong_FromUnsignedLongLong(found);
    }
    let_go(&held);
    return result;
}

/* count_active(inputs, count, epsilon) -> two counts for each input but the first */
static PyObject *count_active(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *pairs;
    Py_ssize_t count;
    double epsilon;
    if (!PyArg_ParseTuple(arguments, "Ond", &pairs, &count, &epsilon)) return NULL;
    struct held held = {.count = 0};
    struct work work = {0};
    PyObject *result = NULL;
    if (take_inputs(&held, pairs, count, work.inputs, &work.input_count) == 0) {
        uint64_t totals[2 * MOST_INPUTS] = {0};
        Py_BEGIN_ALLOW_THREADS
        if (count > 0) chosen->count_active(&work, (size_t)count, (float)epsilon, totals);
        Py_END_ALLOW_THREADS
        const Py_ssize_t length = work.input_count > 0 ? 2 * (Py_ssize_t)work.input_count - 2 : 0;
        result = PyTuple_New(length);
        for (Py_ssize_t index = 0; result != NULL && index < length; index++) {
            PyObject *number = PyLong_FromUnsignedLongLong(totals[index]);
            if (number == NULL || PyTuple_SetItem(result, index, number) < 0) Py_CLEAR(result);
        }
    }
    let_go(&held);
    return result;
}

/* xxh3_begin() -> the state of a hash of nothing */
static PyObject *xxh3_begin(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing)) {
    struct xxh3_state state;
    memset(&state, 0, sizeof state);
    chosen->xxh3_begin(&state);
    return PyByteArray_FromStringAndSize((const char *)&state, sizeof state);
}

/* xxh3_update(state, data) */
static PyObject *xxh3_update(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *state, *data;
    if (!PyArg_ParseTuple(arguments, "OO", &state, &data)) return NULL;
    struct held held = {.count = 0};
    struct xxh3_state *known = take_hash(&held, state, PyBUF_WRITABLE);
    const Py_buffer *more = known != NULL ? hold(&held, data, PyBUF_SIMPLE) : NULL;
    const int is_right = more != NULL;
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        chosen->xxh3_update(known, more->buf, (size_t)more->len);
        Py_END_ALLOW_THREADS
    }
    let_go(&held);
    if (!is_right) return NULL;
    Py_RETURN_NONE;
}

/* xxh3_digest(state) -> 16 bytes */
static PyObject *xxh3_digest(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *state;
    if (!PyArg_ParseTuple(arguments, "O", &state)) return NULL;
    struct held held = {.count = 0};
    const struct xxh3_state *known = take_hash(&held, state, PyBUF_SIMPLE);
    PyObject *result = NULL;
    if (known != NULL) {
        unsigned char digest[16];
        chosen->xxh3_digest(known, digest);
        result = PyBytes_FromStringAndSize((const char *)digest, sizeof digest);
    }
    let_go(&held);
    return result;
}

/* Return the state of a Gram matrix that `gram_begin` has made; NULL, with an exception, if it can't be one. */
static struct gram_state *take_gram(struct held *held, PyObject *object) {
    const Py_buffer *buffer = hold(held, object, PyBUF_WRITABLE);
    if (buffer == NULL) return NULL;
    struct gram_state *state = buffer->buf;
    if (buffer->len < (Py_ssize_t)sizeof *state || state->inputs > MOST_INPUTS || state->origin < -1 ||
        state->origin >= (int64_t)state->inputs || state->waiting >= GRAM_BLOCK ||
        (size_t)buffer->len < gram_size(state->inputs, state->origin)) {
        PyErr_SetString(PyExc_ValueError, "this is no state of sums");
        return NULL;
    }
    return state;
}

/* gram_begin(inputs, origin) -> the state of sums over nothing */
static PyObject *gram_begin(PyObject *Py_UNUSED(module), PyObject *arguments) {
    int inputs, origin;
    if (!PyArg_ParseTuple(arguments, "ii", &inputs, &origin)) return NULL;
    if (inputs < 0 || inputs > MOST_INPUTS || origin < -1 || origin >= inputs)
        return PyErr_Format(PyExc_ValueError, "inputs must be at most %d, and the origin one of them", MOST_INPUTS);
    PyObject *made = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)gram_size((size_t)inputs, origin));
    if (made == NULL) return NULL;
    struct gram_state *state = (struct gram_state *)PyByteArray_AsString(made);
    *state = (struct gram_state){.inputs = (uint64_t)inputs, .origin = origin};
    memset(state->totals, 0, gram_pairs(gram_vectors(state->inputs, origin)) * sizeof(double));
    return made;
}

/* gram_add(state, inputs, count) */
static PyObject *gram_add(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *object, *pairs;
    Py_ssize_t count;
    if (!PyArg_ParseTuple(arguments, "OOn", &object, &pairs, &count)) return NULL;
    struct held held = {.count = 0};
    struct source inputs[MOST_INPUTS];
    size_t taken = 0;
    struct gram_state *state = take_gram(&held, object);
    int is_right = state != NULL && take_inputs(&held, pairs, count, inputs, &taken) == 0;
    if (is_right && taken != state->inputs) {
        PyErr_SetString(PyExc_ValueError, "the sums are over another number of inputs");
        is_right = 0;
    }
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        chosen->gram_add(state, inputs, (size_t)count);
        Py_END_ALLOW_THREADS
    }
    let_go(&held);
    if (!is_right) return NULL;
    Py_RETURN_NONE;
}

/* gram_value(state) -> <x_i, x_j> for each i, j from i on */
static PyObject *gram_value(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *object, *result = NULL;
    if (!PyArg_ParseTuple(arguments, "O", &object)) return NULL;
    struct held held = {.count = 0};
    struct gram_state *state = take_gram(&held, object);
    if (state != NULL) {
        const size_t pairs = gram_pairs(gram_vectors(state->inputs, state->origin));
        double totals[MOST_INPUTS * (MOST_INPUTS + 1) / 2];
        Py_BEGIN_ALLOW_THREADS
        chosen->gram_value(state, totals);
        Py_END_ALLOW_THREADS
        result = PyTuple_New((Py_ssize_t)pairs);
        for (size_t each = 0; result != NULL && each < pairs; each++) {
            PyObject *value = PyFloat_FromDouble(totals[each]);
            if (value == NULL || PyTuple_SetItem(result, (Py_ssize_t)each, value) < 0) Py_CLEAR(result);
        }
    }
    let_go(&held);
    return result;
}

/* Return whether the sides of a product can have these sizes, without an overflow in any size computed from them. */
static int product_fits(uint64_t rows, uint64_t rank, uint64_t columns) {
    const uint64_t most = PY_SSIZE_T_MAX / (4 * sizeof(double));
    return rows < most && columns < most && rank <= most / (rows + STRIP) && rank <= most / (columns + PANEL);
}

/* Return a product that `product_begin` has made; NULL, with an exception, if it can't be one. */
static struct product *take_product(struct held *held, PyObject *object) {
    const Py_buffer *buffer = hold(held, object, PyBUF_WRITABLE);
    if (buffer == NULL) return NULL;
    struct product *product = buffer->buf;
    if (buffer->len >= (Py_ssize_t)sizeof *product && (uintptr_t)buffer->buf % sizeof(uint64_t) == 0 &&
        product_fits(product->rows, product->rank, product->columns) &&
        (size_t)buffer->len >= product_size(product->rows, product->rank, product->columns))
        return product;
    PyErr_SetString(PyExc_ValueError, "this is no product");
    return NULL;
}

/* product_begin(left, right, rows, rank, columns, turned) -> a product; each side is a tuple of one input */
static PyObject *product_begin(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *one, *other, *made = NULL;
    Py_ssize_t rows, rank, columns;
    int turned;
    if (!PyArg_ParseTuple(arguments, "OOnnnp", &one, &other, &rows, &rank, &columns, &turned)) return NULL;
    if (rows < 0 || rank < 0 || columns < 0 || !product_fits((uint64_t)rows, (uint64_t)rank, (uint64_t)columns))
        return PyErr_Format(PyExc_ValueError, "a product has sides of other sizes");
    struct held held = {.count = 0};
    struct source left[MOST_INPUTS], right[MOST_INPUTS];
    size_t lefts = 0, rights = 0;
    if (take_inputs(&held, one, rows * rank, left, &lefts) < 0) goto end;
    if (take_inputs(&held, other, rank * columns, right, &rights) < 0) goto end;
    if (lefts != 1 || rights != 1 || left[0].dtype == FLOAT64 || right[0].dtype == FLOAT64) {
        PyErr_SetString(PyExc_ValueError, "each side of a product must be one input, of no more than float32");
        goto end;
    }
    made = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)product_size((size_t)rows, (size_t)rank, (size_t)columns));
    if (made == NULL) goto end;
    struct product *product = (struct product *)PyByteArray_AsString(made);
    *product = (struct product){.rows = (uint64_t)rows, .rank = (uint64_t)rank, .columns = (uint64_t)columns};
    Py_BEGIN_ALLOW_THREADS
    chosen->product_begin(product, &left[0], &right[0], turned);
    Py_END_ALLOW_THREADS
end:
    let_go(&held);
    return made;
}

/* product_rows(products, scale, first, rows, out, adds): write rows to `out`, or add them */
static PyObject *product_rows(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *given, *output;
    double scale;
    Py_ssize_t first, rows;
    int adds;
    if (!PyArg_ParseTuple(arguments, "O!dnnOp", &PyTuple_Type, &given, &scale, &first, &rows, &output, &adds)) return NULL;
    const Py_ssize_t product_count = PyTuple_Size(given);
    if (product_count < 1 || product_count > MOST_PRODUCTS || first < 0 || rows < 0) {
        PyErr_Format(PyExc_ValueError, "there must be one to %d products, and no negative numbers", MOST_PRODUCTS);
        return NULL;
    }
    struct held held = {.count = 0};
    struct product *products[MOST_PRODUCTS];
    int is_right = 1;
    for (Py_ssize_t each = 0; is_right && each < product_count; each++) {
        products[each] = take_product(&held, PyTuple_GetItem(given, each));
        is_right = products[each] != NULL;
        if (is_right && (products[each]->columns != products[0]->columns || (uint64_t)first > products[each]->rows ||
                         (uint64_t)rows > products[each]->rows - (uint64_t)first)) {
            PyErr_SetString(PyExc_ValueError, "a product has no such rows, or other columns");
            is_right = 0;
        }
    }
    float *out = NULL;
    if (is_right) {
        const uint64_t columns = products[0]->columns;
        if (columns > 0 && (uint64_t)rows > PY_SSIZE_T_MAX / sizeof(float) / columns)
            PyErr_SetString(PyExc_ValueError, "there is too little room");
        else out = take_room(&held, output, (size_t)rows * columns * sizeof(float), sizeof(float));
    }
    if (out != NULL) {
        Py_BEGIN_ALLOW_THREADS
        chosen->product_rows(products, (size_t)product_count, scale, (size_t)first, (size_t)rows, out, adds);
        Py_END_ALLOW_THREADS
    }
    let_go(&held);
    if (out == NULL) return NULL;
    Py_RETURN_NONE;
}

/* Return sums of columns that `columns_begin` has made; NULL, with an exception, if it can't be such. */
static struct column_sums *take_columns(struct held *held, PyObject *object) {
    struct column_sums *sums = take_room(held, object, sizeof *sums, sizeof(double));
    if (sums == NULL) return NULL;
    const Py_buffer *room = &held->buffers[held->count - 1];
    const uint64_t most = ((uint64_t)room->len - sizeof *sums) / sizeof(double) / 3;
    if (sums->columns > 0 && sums->columns <= most && sums->block <= most - sums->columns &&
        sums->block % sums->columns == 0 && sums->block > 0 && sums->fill < sums->block)
        return sums;
    PyErr_SetString(PyExc_ValueError, "these are no sums of columns");
    return NULL;
}

/* columns_begin(columns, block) -> sums over no rows; a block is a power of two of rows */
static PyObject *columns_begin(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_ssize_t columns, block;
    if (!PyArg_ParseTuple(arguments, "nn", &columns, &block)) return NULL;
    const Py_ssize_t rows = columns > 0 ? block / columns : 0;
    if (rows < 1 || rows * columns != block || (rows & (rows - 1)) || block > PY_SSIZE_T_MAX / 64) {
        PyErr_SetString(PyExc_ValueError, "a block must be a power of two of rows");
        return NULL;
    }
    const size_t size = sizeof(struct column_sums) + 3 * (size_t)(columns + block) * sizeof(double);
    PyObject *made = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (made == NULL) return NULL;
    struct column_sums *sums = (struct column_sums *)PyByteArray_AsString(made);
    *sums = (struct column_sums){.columns = (uint64_t)columns, .block = (uint64_t)block};
    memset(sums->totals, 0, 3 * (size_t)columns * sizeof(double));
    return made;
}

/* columns_add(sums, inputs, count): add products of the last two of two or three inputs */
static PyObject *columns_add(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *object, *pairs;
    Py_ssize_t count;
    if (!PyArg_ParseTuple(arguments, "OOn", &object, &pairs, &count)) return NULL;
    struct held held = {.count = 0};
    struct source inputs[MOST_INPUTS];
    size_t taken = 0;
    struct column_sums *sums = take_columns(&held, object);
    int is_right = sums != NULL && take_inputs(&held, pairs, count, inputs, &taken) == 0;
    if (is_right && taken != 2 && taken != 3) {
        PyErr_SetString(PyExc_ValueError, "there must be two inputs, or three");
        is_right = 0;
    }
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        chosen->add_columns(sums, inputs, taken, (size_t)count);
        Py_END_ALLOW_THREADS
    }
    let_go(&held);
    if (!is_right) return NULL;
    Py_RETURN_NONE;
}

/* columns_end(sums) -> float64: <x, x> of each column, <x, y>, <y, y>; nothing can be added afterwards */
static PyObject *columns_end(PyObject *Py_UNUSED(module), PyObject *object) {
    struct held held = {.count = 0};
    PyObject *result = NULL;
    struct column_sums *sums = take_columns(&held, object);
    if (sums != NULL) {
        chosen->end_columns(sums);
        const size_t size = 3 * (size_t)sums->columns * sizeof(double);
        result = PyByteArray_FromStringAndSize((const char *)sums->totals, (Py_ssize_t)size);
    }
    let_go(&held);
    return result;
}

/* Take what `columns_end` has made; how many columns there are. */
static double *take_totals(struct held *held, PyObject *object, size_t *columns) {
    double *totals = take_room(held, object, 3 * sizeof(double), sizeof(double));
    if (totals == NULL) return NULL;
    *columns = (size_t)held->buffers[held->count - 1].len / (3 * sizeof(double));
    return totals;
}

/* columns_cosines(totals) -> (the cosine of each column in float64, that of all columns together); overwrites the totals */
static PyObject *columns_cosines(PyObject *Py_UNUSED(module), PyObject *object) {
    struct held held = {.count = 0};
    size_t columns = 0;
    double *totals = take_totals(&held, object, &columns);
    PyObject *made = NULL, *result = NULL;
    if (totals != NULL) made = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)(columns * sizeof(double)));
    if (made != NULL) {
        const double whole = chosen->cosines_of(totals, columns, (double *)PyByteArray_AsString(made));
        result = Py_BuildValue("Od", made, whole);
    }
    Py_XDECREF(made);
    let_go(&held);
    return result;
}

/* columns_arcs(totals, 1 - t, t) -> float32: the rest of each column, the share of each */
static PyObject *columns_arcs(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *object, *result = NULL;
    double rest_of_t, t;
    if (!PyArg_ParseTuple(arguments, "Odd", &object, &rest_of_t, &t)) return NULL;
    struct held held = {.count = 0};
    size_t columns = 0;
    const double *totals = take_totals(&held, object, &columns);
    if (totals != NULL) result = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)(2 * columns * sizeof(float)));
    if (result != NULL) {
        float *const rests = (float *)PyByteArray_AsString(result);
        chosen->arcs_of(totals, columns, rest_of_t, t, rests, rests + columns);
    }
    let_go(&held);
    return result;
}

/* arrange((first, second), count, begin, end, strict, outside, room, out): the first's values in the order of the second's */
static PyObject *arrange(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *pairs, *room, *output;
    Py_ssize_t count;
    unsigned long long begin, end;
    int is_strict, is_outside;
    if (!PyArg_ParseTuple(arguments, "OnKKppOO", &pairs, &count, &begin, &end, &is_strict, &is_outside, &room, &output))
        return NULL;
    struct held held = {.count = 0};
    struct source sources[MOST_INPUTS];
    size_t taken = 0;
    int is_right = take_inputs(&held, pairs, count, sources, &taken) == 0;
    if (is_right && (taken != 2 || (uint64_t)count > UINT32_MAX || begin > (uint64_t)count || end > (uint64_t)count)) {
        PyErr_SetString(PyExc_ValueError, "there are not two inputs, or too many values, or a place beyond them");
        is_right = 0;
    }
    const struct region region = {begin, end, is_strict, is_outside};
    uint64_t *words = NULL;
    float *out = NULL;
    if (is_right) words = take_room(&held, room, (size_t)count * 20, sizeof(uint64_t));
    if (words != NULL) out = take_room(&held, output, (size_t)count * sizeof(float), sizeof(float));
    if (out != NULL) {
        Py_BEGIN_ALLOW_THREADS
        chosen->arrange(sources, (size_t)count, &region, words, (float *)(words + 2 * (size_t)count), out);
        Py_END_ALLOW_THREADS
    }
    let_go(&held);
    if (out == NULL) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"variants", variants, METH_NOARGS, NULL},
    {"choose", choose, METH_VARARGS, NULL},
    {"apply", apply, METH_VARARGS, NULL},
#if !defined(_WIN32)
    {"lock", lock, METH_NOARGS, NULL},
    {"make", make, METH_VARARGS, NULL},
#endif
    {"tally", tally, METH_VARARGS, NULL},
    {"digit_of", digit_of, METH_VARARGS, NULL},
    {"find", find, METH_VARARGS, NULL},
    {"keep_by_rank", keep_by_rank, METH_VARARGS, NULL},
    {"sum_begin", sum_begin, METH_NOARGS, NULL},
    {"sum_magnitudes", sum_magnitudes, METH_VARARGS, NULL},
    {"sum_squares", sum_squares, METH_VARARGS, NULL},
    {"sum_end", sum_end, METH_O, NULL},
    {"count_nonfinite", count_nonfinite, METH_VARARGS, NULL},
    {"count_active", count_active, METH_VARARGS, NULL},
    {"xxh3_begin", xxh3_begin, METH_NOARGS, NULL},
    {"xxh3_update", xxh3_update, METH_VARARGS, NULL},
    {"xxh3_digest", xxh3_digest, METH_VARARGS, NULL},
    {"gram_begin", gram_begin, METH_VARARGS, NULL},
    {"gram_add", gram_add, METH_VARARGS, NULL},
    {"gram_value", gram_value, METH_VARARGS, NULL},
    {"product_begin", product_begin, METH_VARARGS, NULL},
    {"product_rows", product_rows, METH_VARARGS, NULL},
    {"arrange", arrange, METH_VARARGS, NULL},
    {"columns_begin", columns_begin, METH_VARARGS, NULL},
    {"columns_add", columns_add, METH_VARARGS, NULL},
    {"columns_end", columns_end, METH_O, NULL},
    {"columns_cosines", columns_cosines, METH_O, NULL},
    {"columns_arcs", columns_arcs, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_compiled", .m_size = 0, .m_methods = methods,
};

/* A checksum of the C sources that this is compiled from, set by setup.py; 0: unknown. */
#if !defined(MERGEBUILD_SOURCES)
#define MERGEBUILD_SOURCES 0
#endif

PyMODINIT_FUNC PyInit__compiled(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddIntConstant(module, "SOURCES", MERGEBUILD_SOURCES) < 0) Py_CLEAR(module);
    if (module != NULL) chosen = runnable()[0];
    return module;
}
