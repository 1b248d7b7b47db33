// The binary messages of /api/stream (docs/web.md), and which of them are dealt with.

export const CODECS = { 1: "jpeg", 2: "h264", 3: "h265" };

const VERSION = 1;
const HEADER_BYTES = 36;
const AGE_UNKNOWN = 0xffffffff;

/**
 * One picture's message. `ageMs` is its age when it was sent, or null; `timeUs` its presentation time.
 * Throws a RangeError where it is none.
 */
export function parse(buffer, receivedMs) {
    const view = new DataView(buffer);
    if (buffer.byteLength <= HEADER_BYTES || view.getUint8(0) !== VERSION) {
        throw new RangeError(`a message of ${buffer.byteLength} bytes that is no picture of version ${VERSION}`);
    }
    const flags = view.getUint8(2);
    const age = view.getUint32(16, true);
    return {
        codec: CODECS[view.getUint8(1)],
        keyframe: (flags & 1) !== 0,
        discontinuity: (flags & 2) !== 0,
        id: view.getUint16(4, true),
        width: view.getUint16(6, true),
        height: view.getUint16(8, true),
        n: view.getUint32(12, true),
        ageMs: age === AGE_UNKNOWN ? null : age,
        seq: view.getUint32(20, true),
        lost: view.getUint32(24, true),
        timeUs: Number(view.getBigInt64(28, true)),
        payload: new Uint8Array(buffer, HEADER_BYTES),
        receivedMs,
    };
}

/** Pictures are drawn in another order than they came in; what is told is the number up to which all are done. */
export class Acks {
    #open = new Set();
    #last = 0;
    #told = 0;

    take(n) {
        this.#open.add(n);
        this.#last = n;
    }

    done(n) {
        this.#open.delete(n);
    }

    /** The number to be told, or null where nothing is new. */
    next() {
        const [first] = this.#open;
        const upTo = first === undefined ? this.#last : first - 1;
        if (upTo <= this.#told) {
            return null;
        }
        this.#told = upTo;
        return upTo;
    }
}

/**
 * How old a picture is when it has come, on the way as well: the server tells the age at sending, and what a message
 * took longer than the quickest one of its stream is its time on the way, whatever the two clocks say.
 */
export class Transit {
    #least = Infinity;
    #lastMs = 0;

    /** The age in ms at `receivedMs`, or null where the server does not know it. */
    ageOf({ ageMs, timeUs, receivedMs }) {
        if (ageMs === null) {
            return null;
        }
        const late = receivedMs - (timeUs / 1000 + ageMs);
        this.#least += (receivedMs - this.#lastMs) * 1e-4; // clocks drift
        this.#lastMs = receivedMs;
        if (Math.abs(late - this.#least) > 30_000) { // another clock
            this.#least = late;
        }
        this.#least = Math.min(this.#least, late);
        return ageMs + late - this.#least;
    }
}
