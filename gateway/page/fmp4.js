// Fragmented MP4 of one H.264 stream, for Media Source: a header, then a fragment for each access unit.

import { highProfile, nalUnits, parameterSets } from "./annexb.js";

const TIMESCALE = 1_000_000; // µs
const MATRIX = [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000];
const HIGH_PROFILES = [100, 110, 122, 144];

const u8 = (...values) => Uint8Array.from(values);
const u16 = (...values) => Uint8Array.from(values.flatMap((value) => [value >> 8, value & 255]));
const u32 = (...values) => {
    const view = new DataView(new ArrayBuffer(values.length * 4));
    values.forEach((value, at) => view.setUint32(at * 4, value)); // modulo 2^32: negative ones too
    return new Uint8Array(view.buffer);
};
const u64 = (value) => u32(Math.floor(value / 2 ** 32), value % 2 ** 32);
const text = (value) => new TextEncoder().encode(value);

function joined(parts) {
    const all = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
    let at = 0;
    for (const part of parts) {
        all.set(part, at);
        at += part.length;
    }
    return all;
}

function box(type, ...parts) {
    const length = parts.reduce((sum, part) => sum + part.length, 8);
    return joined([u32(length), text(type), ...parts]);
}

const full = (type, version, flags, ...parts) => box(type, u32(version << 24 | flags), ...parts);

/** The header for a keyframe's parameter sets; null where it has none. */
export function header({ payload, width, height }) {
    const { sps, pps } = parameterSets(nalUnits(payload));
    if (sps.length === 0 || pps.length === 0) {
        return null;
    }
    const entry = box(
        "avc1", u32(0), u16(0, 1), u32(0, 0, 0, 0), u16(width, height), u32(0x480000, 0x480000, 0), u16(1),
        new Uint8Array(32), u16(24, 0xffff), box("avcC", configuration(sps, pps)),
    );
    const samples = box(
        "stbl",
        full("stsd", 0, 0, u32(1), entry),
        full("stts", 0, 0, u32(0)), full("stsc", 0, 0, u32(0)), full("stsz", 0, 0, u32(0, 0)), full("stco", 0, 0, u32(0)),
    );
    const media = box(
        "mdia",
        full("mdhd", 0, 0, u32(0, 0, TIMESCALE, 0), u16(0x55c4, 0)), // no language
        full("hdlr", 0, 0, u32(0), text("vide"), u32(0, 0, 0), text("camfabric\0")),
        box("minf", full("vmhd", 0, 1, u16(0, 0, 0, 0)), box("dinf", full("dref", 0, 0, u32(1), full("url ", 0, 1))), samples),
    );
    const track = full(
        "tkhd", 0, 3, u32(0, 0, 1, 0, 0, 0, 0), u16(0, 0, 0, 0), u32(...MATRIX), u32(width * 65536, height * 65536),
    );
    return joined([
        box("ftyp", text("iso5"), u32(0), text("iso5iso6avc1mp41")),
        box(
            "moov",
            full("mvhd", 0, 0, u32(0, 0, TIMESCALE, 0, 0x10000), u16(0x100, 0), u32(0, 0, ...MATRIX, 0, 0, 0, 0, 0, 0, 2)),
            box("trak", track, media),
            box("mvex", full("trex", 0, 0, u32(1, 1, 0, 0, 0))),
        ),
    ]);
}

/** AVCDecoderConfigurationRecord, with lengths of 4 bytes. */
function configuration(sps, pps) {
    const [, profile, constraints, level] = sps[0];
    const parts = [u8(1, profile, constraints, level, 0xff, 0xe0 | sps.length)];
    for (const unit of sps) {
        parts.push(u16(unit.length), unit);
    }
    parts.push(u8(pps.length));
    for (const unit of pps) {
        parts.push(u16(unit.length), unit);
    }
    if (HIGH_PROFILES.includes(profile)) {
        const { chroma, luma, chromaDepth } = highProfile(sps[0]);
        parts.push(u8(0xfc | chroma, 0xf8 | luma, 0xf8 | chromaDepth, 0));
    }
    return joined(parts);
}

const LEFT_OUT = [7, 8, 9]; // parameter sets stand in the header, and delimiters nowhere

/** A fragment of one access unit; times in µs. */
export function fragment({ payload, keyframe }, { number, decodeUs, presentationUs, durationUs }) {
    const units = nalUnits(payload).filter((unit) => !LEFT_OUT.includes(unit[0] & 31));
    const sample = units.flatMap((unit) => [u32(unit.length), unit]);
    const size = sample.reduce((sum, part) => sum + part.length, 0);
    const flags = keyframe ? 0x02000000 : 0x01010000; // depends on no other one | on others, and is no sync sample
    const boxes = (offset) => box(
        "moof",
        full("mfhd", 0, 0, u32(number)),
        box(
            "traf",
            full("tfhd", 0, 0x020000, u32(1)), // offsets count from this moof
            full("tfdt", 1, 0, u64(decodeUs)),
            full("trun", 1, 0xf01, u32(1, offset, durationUs, size, flags, presentationUs - decodeUs)),
        ),
    );
    const moof = boxes(boxes(0).length + 8);
    return joined([moof, u32(size + 8), text("mdat"), ...sample]);
}
