/* Stands in for libcuda, the driver's library, so that a CUDA build links and starts where there
 * is no driver. Every function jumps through a table that is filled when the driver is loaded;
 * until then it fails as NVIDIA's own stub library does. The names are those of
 * driver-functions.h, which cudarc's bindings refer to. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

static int missing(void) { return 34; /* CUDA_ERROR_STUB_LIBRARY */ }

#define FUNCTION(name) #name,
static const char *const names[] = {
#include "driver-functions.h"
};
#undef FUNCTION

#define FUNCTION(name) (void *)missing,
__attribute__((visibility("hidden"))) void *costmark_driver_table[] = {
#include "driver-functions.h"
};
#undef FUNCTION

/* Looks functions up; 1 if there is a driver. Call once, before anything else. */
int costmark_load_driver(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!driver) return 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *found = dlsym(driver, names[i]);
        if (found) costmark_driver_table[i] = found;
    }
    return 1;
}

/* Arguments stay where they are: nothing but a jump. */
#if defined(__x86_64__)
#define JUMP "jmp *costmark_driver_table+8*costmark_driver_index(%rip)\n"
#elif defined(__aarch64__)
#define JUMP \
    "adrp x16, costmark_driver_table+8*costmark_driver_index\n" \
    "ldr x16, [x16, :lo12:costmark_driver_table+8*costmark_driver_index]\n" \
    "br x16\n"
#else
#error "CUDA is built for x86-64 and 64-bit ARM"
#endif
#define FUNCTION(name) \
    asm(".globl " #name "\n.hidden " #name "\n.type " #name ", %function\n" #name ":\n" JUMP \
        ".set costmark_driver_index, costmark_driver_index+1\n");
asm(".text\n.set costmark_driver_index, 0\n");
#include "driver-functions.h"
