/* The kernels for Python: checks of sizes, and nothing else. The interpreter's lock is let go of while values are made. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000 /* Python 3.11 */
#include <Python.h>

#include <string.h>
#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#endif

#include "kernels.h"
#include "xxh3.h"

static const struct variant *chosen = &variant_plain;

static const size_t SIZES[DTYPE_COUNT] = {8, 4, 2, 2, 1, 1};

#if defined(__x86_64__) && defined(__GNUC__)
/* Whether the processor has AVX2 and F16C (1), AVX-512 F, BW, DQ and VL too (2), and the system keeps their registers.
 * Asked of the processor itself, as not every compiler's library can be. */
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
    Py_buffer buffers[MOST_INPUTS + 4];
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

/* Take inputs: pairs of a buffer and a dtype's number, each of at least `count` elements. */
static int take_inputs(struct held *held, PyObject *pairs, Py_ssize_t count, struct source *sources, size_t *taken) {
    const Py_ssize_t length = PyTuple_Check(pairs) ? PyTuple_Size(pairs) : -1;
    if (length < 0 || length > MOST_INPUTS) {
        PyErr_Format(PyExc_ValueError, "inputs must be a tuple of at most %d", MOST_INPUTS);
        return -1;
    }
    for (Py_ssize_t index = 0; index < length; index++) {
        PyObject *object;
        int dtype;
        if (!PyArg_ParseTuple(PyTuple_GetItem(pairs, index), "Oi", &object, &dtype)) return -1;
        const Py_buffer *buffer = hold(held, object, PyBUF_SIMPLE);
        if (buffer == NULL) return -1;
        if (dtype < 0 || dtype >= DTYPE_COUNT || buffer->len / (Py_ssize_t)SIZES[dtype] < count) {
            PyErr_SetString(PyExc_ValueError, "an input has another dtype, or fewer elements");
            return -1;
        }
        sources[index] = (struct source){buffer->buf, (enum dtype)dtype};
    }
    *taken = (size_t)length;
    return 0;
}

/* apply(kernel, option, numbers, start, inputs, count, dtype, out, hash, odd) -> (nonfinite, overflowed) */
static PyObject *apply(PyObject *Py_UNUSED(module), PyObject *arguments) {
    const char *name;
    long long option;
    unsigned long long start;
    PyObject *numbers, *pairs, *output, *state;
    Py_ssize_t count;
    int dtype, odd;
    if (!PyArg_ParseTuple(arguments, "sLOKOniOOp", &name, &option, &numbers, &start, &pairs, &count, &dtype, &output,
                          &state, &odd))
        return NULL;
    const struct named_kernel *kernel = chosen->kernels;
    while (kernel->name != NULL && strcmp(kernel->name, name) != 0) kernel++;
    if (kernel->name == NULL) return PyErr_Format(PyExc_ValueError, "there is no kernel '%s'", name);
    if (count < 0 || dtype < 0 || dtype >= DTYPE_COUNT) {
        PyErr_SetString(PyExc_ValueError, "a negative count, or no dtype");
        return NULL;
    }
    struct held held = {.count = 0};
    struct source sources[MOST_INPUTS];
    struct call call = {.option = option, .start = start};
    size_t input_count = 0;
    PyObject *result = NULL;
    const Py_buffer *packed = hold(&held, numbers, PyBUF_SIMPLE);
    if (packed == NULL) goto end;
    call.numbers = packed->buf;
    call.number_count = (size_t)packed->len / sizeof(float);
    const Py_buffer *out = hold(&held, output, PyBUF_WRITABLE);
    if (out == NULL) goto end;
    const Py_buffer *hash = state == Py_None ? NULL : hold(&held, state, PyBUF_WRITABLE);
    if (hash == NULL && state != Py_None) goto end;
    if (out->len / (Py_ssize_t)SIZES[dtype] < count ||
        (hash != NULL && hash->len < (Py_ssize_t)sizeof(struct xxh3_state))) {
        PyErr_SetString(PyExc_ValueError, "the output or the state of the hash is too small");
        goto end;
    }
    if (take_inputs(&held, pairs, count, sources, &input_count) < 0) goto end;
    if (!kernel->takes(&call, input_count)) {
        PyErr_Format(PyExc_ValueError, "'%s' does not take these inputs and numbers", name);
        goto end;
    }
    struct seen seen;
    Py_BEGIN_ALLOW_THREADS
    seen = chosen->apply(kernel->apply, &call, sources, input_count, (size_t)count, (enum dtype)dtype, out->buf,
                         hash != NULL ? hash->buf : NULL, odd);
    Py_END_ALLOW_THREADS
    result = Py_BuildValue("KK", (unsigned long long)seen.nonfinite, (unsigned long long)seen.overflowed);
end:
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
    const Py_buffer *known = hold(&held, state, PyBUF_WRITABLE);
    const Py_buffer *more = known != NULL ? hold(&held, data, PyBUF_SIMPLE) : NULL;
    int is_right = more != NULL;
    if (is_right && known->len < (Py_ssize_t)sizeof(struct xxh3_state)) {
        PyErr_SetString(PyExc_ValueError, "the state of the hash is too small");
        is_right = 0;
    }
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        chosen->xxh3_update(known->buf, more->buf, (size_t)more->len);
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
    const Py_buffer *known = hold(&held, state, PyBUF_SIMPLE);
    if (known == NULL) return NULL;
    PyObject *result = NULL;
    if (known->len < (Py_ssize_t)sizeof(struct xxh3_state)) {
        PyErr_SetString(PyExc_ValueError, "the state of the hash is too small");
    } else {
        unsigned char digest[16];
        chosen->xxh3_digest(known->buf, digest);
        result = PyBytes_FromStringAndSize((const char *)digest, sizeof digest);
    }
    let_go(&held);
    return result;
}

static PyMethodDef methods[] = {
    {"variants", variants, METH_NOARGS, NULL},
    {"choose", choose, METH_VARARGS, NULL},
    {"apply", apply, METH_VARARGS, NULL},
    {"count_nonfinite", count_nonfinite, METH_VARARGS, NULL},
    {"xxh3_begin", xxh3_begin, METH_NOARGS, NULL},
    {"xxh3_update", xxh3_update, METH_VARARGS, NULL},
    {"xxh3_digest", xxh3_digest, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_compiled", .m_size = 0, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__compiled(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL) chosen = runnable()[0];
    return module;
}
