// H.264 and H.265 as byte streams (Annex B): their units, and what decoders have to be told of them.

/** The NAL units of an access unit, without start codes: views into `data`, nothing is copied. */
export function nalUnits(data) {
    const units = [];
    let begin = -1;
    for (let at = data.indexOf(1, 2); at !== -1; at = data.indexOf(1, at + 1)) {
        if (data[at - 1] !== 0 || data[at - 2] !== 0) {
            continue;
        }
        if (begin >= 0) {
            units.push(trimmed(data, begin, at - 2));
        }
        begin = at + 1;
    }
    if (begin >= 0) {
        units.push(trimmed(data, begin, data.length));
    }
    return units;
}

function trimmed(data, begin, end) {
    while (end > begin && data[end - 1] === 0) { // the first byte of a long start code, or trailing zeros
        end -= 1;
    }
    return data.subarray(begin, end);
}

const SPS = 7;
const PPS = 8;
const HEVC_SPS = 33;

/** {sps, pps} of an H.264 access unit, arrays of units. */
export function parameterSets(units) {
    return {
        sps: units.filter((unit) => (unit[0] & 31) === SPS),
        pps: units.filter((unit) => (unit[0] & 31) === PPS),
    };
}

/** The codec string of a keyframe, as "avc1.64001f"; null where it has no parameter sets. */
export function codecString(codec, payload) {
    const units = nalUnits(payload);
    if (codec === "h264") {
        const sps = units.find((unit) => (unit[0] & 31) === SPS);
        return sps === undefined ? null : "avc1." + hex(sps.subarray(1, 4));
    }
    const sps = units.find((unit) => (unit[0] >> 1 & 63) === HEVC_SPS);
    return sps === undefined ? null : hevcString(unescaped(sps));
}

function hex(bytes) {
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** ISO/IEC 14496-15, E.3: profile, compatibility (bits reversed), tier and level, constraints without zeros at the end. */
function hevcString(sps) {
    const space = ["", "A", "B", "C"][sps[3] >> 6];
    const tier = sps[3] & 32 ? "H" : "L";
    let compatible = 0;
    for (let bit = 0; bit < 32; bit += 1) {
        compatible |= (sps[4 + (bit >> 3)] >> (7 - (bit & 7)) & 1) << bit;
    }
    const constraints = Array.from(sps.subarray(8, 14));
    while (constraints.length > 0 && constraints.at(-1) === 0) {
        constraints.pop();
    }
    return [
        `hev1.${space}${sps[3] & 31}`,
        (compatible >>> 0).toString(16).toUpperCase(),
        tier + sps[14],
        ...constraints.map((byte) => byte.toString(16).toUpperCase()),
    ].join(".");
}

/** A unit without its emulation prevention bytes (00 00 03). */
function unescaped(unit) {
    return unit.filter((byte, at) => !(byte === 3 && at > 1 && unit[at - 1] === 0 && unit[at - 2] === 0));
}

/** {chroma, luma, chromaDepth} of an H.264 SPS of a high profile: chroma_format_idc and the bit depths less 8. */
export function highProfile(sps) {
    const bytes = unescaped(sps);
    let at = 32; // behind the unit's header, profile, constraints and level
    const bit = () => bytes[at >> 3] >> (7 - (at++ & 7)) & 1;
    const golomb = () => {
        let zeros = 0;
        while (zeros < 32 && bit() === 0) {
            zeros += 1;
        }
        let value = 1;
        for (let left = zeros; left > 0; left -= 1) {
            value = value * 2 + bit();
        }
        return value - 1;
    };
    golomb(); // seq_parameter_set_id
    const chroma = golomb();
    if (chroma === 3) {
        bit(); // separate_colour_plane_flag
    }
    return { chroma, luma: golomb(), chromaDepth: golomb() };
}
