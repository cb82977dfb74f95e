/* What is wired to the simulated RP2040, its flash and one INA219, and registers for units that are not simulated.
 *
 * The simulator's flash is read only, and its flash unit a stub; here both are a W25Q16 with 4 KiB sectors. */
'use strict';

const FLASH_BYTES = 2 << 20;
const ERASE_NS = 45e6, PROGRAM_NS = 0.7e6;
const CONVERSION_US = [84, 148, 276, 532, 84, 148, 276, 532, 532, 1060, 2130, 4260, 8510, 17020, 34050, 68100];

class Registers {
  /* A unit of which the simulator has none. */
  constructor(read, write) {
    this.readUint32 = read;
    this.write = write;
  }
  writeUint32Atomic(offset, value, how) {
    const now = how ? this.readUint32(offset) : 0;
    this.write(offset, [value, now ^ value, now | value, now & ~value][how] >>> 0);
  }
}

class Flash {
  constructor(image) {
    this.bytes = new Uint8Array(FLASH_BYTES).fill(0xff);
    this.bytes.set(image);
    this.erased = this.programmed = this.refused = 0;
    this.work = null;
    this.attach(null);
  }
  attach(clock) {
    this.clock = clock;
    this.busyUntil = 0;
    this.selected = this.writable = false;
    this.received = [];
  }
  get busy() {
    return this.clock.nanos < this.busyUntil;
  }
  select(on) {
    if (this.selected && !on) this.obey();
    if (!this.selected && on) this.command = [];
    this.selected = on;
  }
  exchange(byte) {
    if (!this.selected) return 0xff;
    const n = this.command.push(byte) - 1;
    const [code] = this.command;
    if (code === 0x05 && n) return (this.busy ? 1 : 0) | (this.writable ? 2 : 0);
    if (this.busy) return 0xff;
    if (code === 0x03 && n >= 4) return this.bytes[(this.address + n - 4) % FLASH_BYTES];
    if (code === 0x4b && n >= 5) return 0xe0 + n - 5;
    return 0;
  }
  get address() {
    return (this.command[1] << 16) | (this.command[2] << 8) | this.command[3];
  }
  obey() {
    const [code] = this.command;
    if (code === 0x05 || code === 0x03 || code === 0x4b) return;
    if (this.busy) this.refused++;
    else if (code === 0x06) this.writable = true;
    else if (!this.writable) this.refused++;
    else if (code === 0x20) {
      const sector = this.address & ~4095;
      this.work = { at: sector, before: this.bytes.slice(sector, sector + 4096) };
      this.bytes.fill(0xff, sector, sector + 4096);
      this.erased++;
      this.writable = false;
      this.busyUntil = this.clock.nanos + ERASE_NS;
    } else if (code === 0x02) {
      const data = this.command.slice(4);
      const page = this.address & ~255;
      this.work = { at: page, before: this.bytes.slice(page, page + 256) };
      data.forEach((byte, i) => (this.bytes[page + ((this.address + i) & 255)] &= byte));
      this.programmed++;
      this.writable = false;
      this.busyUntil = this.clock.nanos + PROGRAM_NS;
    }
  }
  /* The power fails: of what is being written or erased the second half is as it was. */
  cut() {
    if (!this.busy) return false;
    const { at, before } = this.work;
    const half = before.length / 2;
    this.bytes.set(before.slice(half), at + half);
    return true;
  }
  unit() {
    return new Registers(
      (offset) => {
        if (offset === 0x28) return 2 | 4 | (this.received.length ? 8 : 0);
        return offset === 0x60 ? this.received.shift() : 0;
      },
      (offset, value) => {
        if (offset === 0x60) this.received.push(this.exchange(value & 0xff));
        if (this.received.length > 16) throw new Error('the receiving queue of the flash unit ran over');
      },
    );
  }
}

class Ina219 {
  constructor() {
    this.load = { shunt: 0, bus: 0 };
    this.present = true;
    this.stuck = false;
    this.powerUp(0);
  }
  powerUp(now) {
    this.registers = [0x399f, 0, 0, 0, 0, 0];
    this.pointer = 0;
    this.begin(now);
  }
  begin(now) {
    const config = this.registers[0];
    this.began = now;
    this.cleared = now;
    this.periodNs = 1000 * (CONVERSION_US[(config >> 3) & 15] + CONVERSION_US[(config >> 7) & 15]);
  }
  /* A conversion ended since the flag was cleared. */
  ready(now) {
    return Math.floor((now - this.began) / this.periodNs) > Math.floor((this.cleared - this.began) / this.periodNs);
  }
  read(now) {
    switch (this.pointer) {
      case 1:
        return this.load.shunt & 0xffff;
      case 2:
        return (this.load.bus << 3) | (this.ready(now) ? 2 : 0);
      case 3:
        this.cleared = now;
        return 0;
      default:
        return this.registers[this.pointer];
    }
  }
  write(value, now) {
    this.registers[this.pointer] = value;
    if (this.pointer === 0) this.begin(now);
  }
}

module.exports = { Flash, Ina219, Registers };
