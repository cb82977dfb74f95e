/* An RP2040 with its flash and one INA219, in the simulator rp2040js, obeying lines on stdin.
 *
 *     node rp2040_host.cjs IMAGE.bin
 *     run US            -> out HEX       simulates; what the bridge sent meanwhile
 *     feed HEX          -> ok            bytes to the bridge, 20 us apart
 *     sensor SHUNT BUS  -> ok            registers of a constant load; "absent" and "stuck" instead of them
 *     marker LEVEL      -> ok
 *     power             -> ok            off and on; the flash keeps what it holds
 *     cut               -> ok            the same in the middle of a write or an erasure, which is then half done
 *     facts             -> JSON          what the host counted
 *
 * The simulator's I2C unit and line take no time; here a byte takes 22.5 us on the bus. Its flash is read only, and its
 * flash unit a stub; here both are a W25Q16 with 4 KiB sectors. */
'use strict';

const fs = require('node:fs');
const readline = require('node:readline');
const { RP2040 } = require('rp2040js');

const FLASH_BYTES = 2 << 20;
const BIT_NS = 2500, LINE_BYTE_NS = 20000, ERASE_NS = 45e6, PROGRAM_NS = 0.7e6;
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

class Machine {
  constructor(image) {
    this.image = image;
    this.flash = new Flash(image);
    this.sensor = new Ina219();
    this.out = [];
    this.facts = { boots: 0, sclPulses: 0, bootloader: 0, warnings: [] };
    this.line = false;
    this.boot(null);
  }

  boot(before) {
    const mcu = (this.mcu = new RP2040());
    const { clock } = mcu;
    this.clock = clock;
    this.facts.boots++;
    this.restart = false;
    const warn = (name, message) => this.facts.warnings.push(`${name}: ${message}`);
    mcu.logger = { debug() {}, info() {}, warn, error: warn };
    mcu.flash.set(this.flash.bytes);
    this.flash.attach(clock);
    this.sensor.began = this.sensor.cleared = 0;
    const watchdog = mcu.peripherals[0x40058];
    if (before) {
      watchdog.scratchData.set(before.scratchData);
      watchdog.reason = before.reason;
    }
    watchdog.onWatchdogTrigger = () => {
      this.restart = true;
      watchdog.alarm.enable = false; /* or it would bite for ever in no time */
    };
    mcu.peripherals[0x18000] = this.flash.unit();
    mcu.peripherals[0x40018] = new Registers(
      () => 0,
      (offset, value) => offset === 0x0c && this.flash.select(((value >> 8) & 3) === 2),
    );
    mcu.peripherals[0x40064] = new Registers(() => 1 << 8, () => {});
    this.connectBus(mcu);
    mcu.uart[0].onByte = (byte) => this.out.push(byte);
    this.fed = 0;
    mcu.gpio[6].setInputValue(this.line);
    this.loadRom(mcu);
    mcu.core.SP = 0x20041f00;
    mcu.core.PC = 0x10000000; /* where the ROM goes: the second stage */
  }

  /* Of the ROM there is only the way into its loader, which is a loop to stay in. */
  loadRom(mcu) {
    const rom = new Uint32Array(16);
    rom[5] = 0x30; /* 14h: table of functions */
    rom[6] = 0x21; /* 18h: the look-up */
    rom[8] = 0x47704800; /* 20h: ldr r0, [pc]; bx lr */
    rom[9] = 0x29;
    rom[10] = 0x0000e7fe; /* 28h: b . */
    mcu.bootrom.set(rom);
  }

  after(ns, what) {
    this.clock.createAlarm(what).schedule(ns);
  }

  connectBus(mcu) {
    const bus = mcu.i2c[0];
    const { sensor } = this;
    const reset = mcu.peripherals[0x4000c];
    const write = reset.writeUint32.bind(reset);
    reset.writeUint32 = (offset, value) => {
      if (offset === 0 && value & 8) {
        bus.writeUint32(0x6c, 0);
        bus.readUint32(0x40);
        Object.assign(bus, { state: 0, busy: false, stop: false, pendingRestart: false, control: 0 });
      }
      write(offset, value);
    };
    const writeBus = bus.writeUint32.bind(bus);
    bus.writeUint32 = (offset, value) => {
      if (offset !== 0x30) return writeBus(offset, value);
      bus.intEnable = value; /* the mask, which the simulator leaves out */
      bus.checkInterrupts();
    };
    mcu.gpio[5].addListener((now) => {
      if (now !== 0) return;
      this.facts.sclPulses++;
      if (this.facts.sclPulses % 9 === 0) sensor.stuck = false;
    });
    const held = () => sensor.stuck;
    let bytes = [];
    bus.onStart = () => held() || this.after(BIT_NS, () => bus.completeStart());
    bus.onConnect = (address, mode) => {
      bytes = mode ? null : [];
      this.after(9 * BIT_NS, () => {
        if (mode) this.word = sensor.read(this.clock.nanos);
        this.half = 0;
        bus.completeConnect(sensor.present && address === 0x40);
      });
    };
    bus.onWriteByte = (value) => {
      this.after(9 * BIT_NS, () => {
        bytes.push(value);
        if (bytes.length === 1) sensor.pointer = value;
        if (bytes.length === 3) sensor.write((bytes[1] << 8) | value, this.clock.nanos);
        bus.completeWrite(true);
      });
    };
    bus.onReadByte = () => {
      this.after(9 * BIT_NS, () => bus.completeRead(this.half++ ? this.word & 0xff : this.word >> 8));
    };
    bus.onStop = () => this.after(BIT_NS, () => bus.completeStop());
  }

  run(us) {
    let left = us * 1000;
    while (left > 0) {
      const { clock, mcu } = this;
      const begin = clock.nanos;
      const end = begin + left;
      while (clock.nanos < end && !this.restart) {
        const { core } = mcu;
        /* An interrupt that is pending already ends a sleep at once; the simulator sleeps on. */
        if (core.waiting && core.pendingInterrupts & core.enabledInterrupts) core.waiting = false;
        if (core.waiting) {
          const next = clock.nextAlarm ? clock.nanosToNextAlarm : Infinity;
          clock.tick(Math.max(0, Math.min(next, end - clock.nanos)));
        } else {
          clock.tick((core.executeInstruction() * 1e9) / mcu.clkSys);
        }
      }
      left -= clock.nanos - begin;
      if (this.restart) this.boot(mcu.peripherals[0x40058]);
    }
    if (this.mcu.core.PC >>> 0 === 0x28) this.facts.bootloader = 1;
  }

  feed(data) {
    let at = Math.max(this.fed, this.clock.nanos);
    const { mcu } = this;
    for (const byte of data) {
      at += LINE_BYTE_NS;
      this.after(at - this.clock.nanos, () => mcu.uart[0].feedByte(byte));
    }
    this.fed = at;
  }

  obey([verb, ...words]) {
    switch (verb) {
      case 'run': {
        this.run(Number(words[0]));
        const sent = Buffer.from(this.out).toString('hex');
        this.out = [];
        return `out ${sent}`;
      }
      case 'feed':
        this.feed(Buffer.from(words[0], 'hex'));
        return 'ok';
      case 'sensor':
        this.sensor.present = words[0] !== 'absent';
        this.sensor.stuck = words[0] === 'stuck';
        if (words.length === 2) this.sensor.load = { shunt: Number(words[0]), bus: Number(words[1]) };
        return 'ok';
      case 'marker':
        this.line = words[0] === '1';
        this.mcu.gpio[6].setInputValue(this.line);
        return 'ok';
      case 'cut':
        if (!this.flash.cut()) return 'error nothing is being written';
      // falls through
      case 'power':
        this.sensor.powerUp(0);
        this.boot(null);
        return 'ok';
      case 'facts': {
        const { clkSys } = this.mcu;
        const { erased, programmed, refused, busy } = this.flash;
        const baud = this.mcu.uart[0].baudRate;
        return JSON.stringify({ ...this.facts, clkSys, baud, erased, programmed, refused, busy });
      }
      default:
        return 'error unknown';
    }
  }
}

const machine = new Machine(fs.readFileSync(process.argv[2]));
readline.createInterface({ input: process.stdin }).on('line', (line) => {
  process.stdout.write(`${machine.obey(line.trim().split(' '))}\n`);
});
