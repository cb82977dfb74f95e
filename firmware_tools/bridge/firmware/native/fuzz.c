/* Hostile input for the core. As a program: reads inputs of a little-endian u16 length and that many bytes from standard
 * input, and answers each with one byte, so that a caller knows which input ended it. With libFuzzer
 * (clang -fsanitize=fuzzer -DWITH_LIBFUZZER): the usual entry.
 *
 * The first byte of an input says what happens to the sensors meanwhile, the rest comes down the line. */
#include <stdint.h>
#include <stdio.h>

#include "native.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static uint8_t out[4096];
    uint8_t events = count ? bytes[0] : 0;
    size_t at = 1;
    if (events & 1)
        native_erase();
    native_sensor(0, 0x40, 800, 1250 << 3);
    native_sensor(1, events & 2 ? 0x45 : 0, -800, 0xFFFF);
    native_stuck(false);
    native_absent(0, false);
    native_boot(events & 4);
    native_run(10000, out, sizeof out);
    native_stuck(events & 8);
    native_absent(0, events & 16);
    if (events & 32)
        native_brown_out(0);
    native_cut_power_after(events & 64 ? events : UINT32_MAX);
    while (at < count) {
        size_t taken = native_receive(bytes + at, count - at);
        at += taken;
        native_run(taken ? 400 : 20000, out, sizeof out);
    }
    native_stuck(false);
    native_absent(0, false);
    if (events & 128)
        native_skip(0xFFFFFFFFu);
    native_run(events & 128 ? 100000 : 10000, out, sizeof out);
    return 0;
}

#ifndef WITH_LIBFUZZER
int main(void)
{
    static uint8_t bytes[0x10000];
    native_erase();
    for (;;) {
        int low = getchar(), high = getchar();
        if (low == EOF || high == EOF)
            return 0;
        size_t count = (size_t)(low | high << 8);
        if (fread(bytes, 1, count, stdin) != count)
            return 2;
        LLVMFuzzerTestOneInput(bytes, count);
        putchar('.');
        fflush(stdout);
    }
}
#endif
