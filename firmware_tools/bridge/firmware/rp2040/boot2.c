/* The second stage of the boot, which the boot ROM copies from the first 256 bytes of the flash to RAM and runs
 * (RP2040 data sheet 2.8.1.3). It lets the processor read the flash by command 03h, which every serial flash knows, and
 * goes on at the vectors behind it. The build puts the check sum that the ROM asks for into the last four bytes. */

__asm__(".section .boot2, \"ax\"\n"
        ".syntax unified\n"
        ".thumb\n"
        "    ldr r3, =0x18000000\n" /* SSI */
        "    movs r1, #0\n"
        "    str r1, [r3, #0x08]\n" /* off */
        "    movs r1, #4\n"
        "    str r1, [r3, #0x14]\n" /* a quarter of the processor's clock: 12 MHz */
        "    ldr r1, =0x001F0300\n" /* frames of 32 bits: command and address out, data in */
        "    str r1, [r3, #0x00]\n"
        "    ldr r1, =0x03000218\n" /* command 03h of 8 bits, address of 24, one line for both */
        "    movs r0, #0xF4\n"
        "    str r1, [r3, r0]\n"
        "    movs r1, #0\n"
        "    str r1, [r3, #0x04]\n" /* one frame for each read */
        "    movs r1, #1\n"
        "    str r1, [r3, #0x08]\n" /* on */
        "    ldr r0, =0x10000100\n"
        "    ldr r1, =0xE000ED08\n"
        "    str r0, [r1]\n"
        "    ldmia r0!, {r1, r2}\n"
        "    msr msp, r1\n"
        "    bx r2\n"
        "    .pool\n"
        ".text\n");
