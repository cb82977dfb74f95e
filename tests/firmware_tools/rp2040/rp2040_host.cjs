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
 * The simulator's I2C unit and line take no time; here a byte takes 22.5 us on the bus. What is wired to
 * the chip is in rp2040_parts.cjs. */
'use strict';

const fs = require('node:fs');
const readline = require('node:readline');
const { RP2040 } = require('rp2040js');
const { Flash, Ina219, Registers } = require('./rp2040_parts.cjs');

const BIT_NS = 2500, LINE_BYTE_NS = 20000;

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
