// H.264 by Media Source, where the browser has no WebCodecs: a <video> that is kept at the newest picture.

import { codecString } from "./annexb.js";
import { fragment, header } from "./fmp4.js";

// A fragment says how long its picture is shown, before anybody knows when the next one comes. So it says more than it
// will be: a shorter time would leave holes, at which browsers stop, and wait for a keyframe.
const DURATION_US = 1_000_000;
const FIRST_US = 2_000_000; // decode times may not be negative
const REORDER_US = 500_000; // and, with B-frames, lie before presentation times
const GAP_US = 1_500_000;
const TARGET_S = 0.03;
const SEEK_S = 1.5;
const KEEP_S = 5;

const Source = globalThis.ManagedMediaSource ?? globalThis.MediaSource;

/** See `Feed` in feeds.js for what a player is. */
export class MsePlayer {
    static canPlay = () => Source !== undefined;

    name = "mse";
    element = document.createElement("video");
    #host;
    #source = new Source();
    #buffer = null;
    #codec = null;
    #waiting = []; // [message, bytes]
    #appending = [];
    #busy = false; // `updating` ends before its event comes
    #number = 0;
    #offsetUs = null; // from the stream's times to those of the element
    #newestUs = 0;
    #decodeUs = 0;
    #shown = new Map(); // messages by presentation time in the element
    #keyframes = []; // their presentation times in seconds
    #stopped = false;

    constructor(host) {
        this.#host = host;
        Object.assign(this.element, { muted: true, playsInline: true, autoplay: true, disableRemotePlayback: true });
        this.element.src = URL.createObjectURL(this.#source);
        this.element.onerror = () => this.#fail(this.element.error?.message || "the video element failed");
        this.#source.onsourceopen = () => {
            URL.revokeObjectURL(this.element.src);
            this.#append();
        };
        this.#follow();
    }

    push(message) {
        if (message.discontinuity || this.#isElsewhere(message)) {
            this.#offsetUs = null;
        }
        const parts = [];
        if (message.keyframe) {
            const codec = codecString(message.codec, message.payload);
            const bytes = codec === null ? null : header(message);
            if (bytes !== null) {
                if (!this.#prepare(codec, message)) {
                    return;
                }
                parts.push(bytes);
            }
            this.#offsetUs ??= Math.max(FIRST_US, this.#newestUs + DURATION_US / 10) - message.timeUs;
        }
        if (this.#offsetUs === null || this.#codec === null) {
            this.#host.done(message); // nothing can be made of it before the next keyframe
            return;
        }
        this.#waiting.push([message, this.#fragment(message, parts)]);
        this.#append();
    }

    /** Whether its time does not follow those before it. */
    #isElsewhere({ timeUs }) {
        return this.#offsetUs !== null && Math.abs(timeUs + this.#offsetUs - this.#newestUs) > GAP_US;
    }

    #prepare(codec, message) {
        const type = `video/mp4; codecs="${codec}"`;
        if (!Source.isTypeSupported(type)) {
            this.#host.done(message);
            this.#fail(`this browser's Media Source does not take ${codec}`);
            return false;
        }
        if (this.#codec !== null && this.#codec !== codec) {
            this.#host.done(message);
            this.#fail(`the stream changed from ${this.#codec} to ${codec}`);
            return false;
        }
        this.#codec = codec;
        return true;
    }

    #fragment(message, parts) {
        const presentationUs = message.timeUs + this.#offsetUs;
        this.#decodeUs = Math.max(this.#decodeUs + 1, presentationUs - REORDER_US);
        this.#newestUs = Math.max(this.#newestUs, presentationUs);
        this.#shown.set(presentationUs, message);
        this.#number += 1;
        if (message.keyframe) {
            this.#keyframes.push(presentationUs / 1e6);
        }
        parts.push(fragment(message, {
            number: this.#number, decodeUs: this.#decodeUs, presentationUs, durationUs: DURATION_US,
        }));
        return parts;
    }

    #append() {
        if (this.#source.readyState !== "open" || this.#codec === null || this.#stopped) {
            return;
        }
        try {
            if (this.#buffer === null) {
                this.#buffer = this.#source.addSourceBuffer(`video/mp4; codecs="${this.#codec}"`);
                this.#buffer.onupdateend = () => this.#appended();
            }
            if (this.#busy || this.#waiting.length === 0) {
                return;
            }
            this.#busy = true;
            this.#appending = this.#waiting.splice(0);
            const parts = this.#appending.flatMap(([, bytes]) => bytes);
            const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
            parts.reduce((at, part) => (all.set(part, at), at + part.length), 0);
            this.#buffer.appendBuffer(all);
        } catch (error) {
            this.#fail(error.message);
        }
    }

    #appended() {
        this.#busy = false;
        this.#appending.splice(0).forEach(([message]) => this.#host.done(message));
        if (this.#stopped || this.#source.readyState !== "open") {
            return;
        }
        this.#chase();
        if (!this.#forget()) {
            this.#append();
        }
    }

    /** Give back the memory of what was shown long ago; whether that is under way. */
    #forget() {
        // Up to a keyframe: what is taken out goes on to the next one, and might take the picture that is shown.
        const old = this.#keyframes.findLastIndex((at) => at < this.element.currentTime - KEEP_S);
        if (old < 1) {
            return false;
        }
        this.#busy = true;
        this.#buffer.remove(0, this.#keyframes[old]);
        this.#keyframes.splice(0, old);
        return true;
    }

    /** Play a little faster or slower, so that what is shown is the newest; jump where it is far away. */
    #chase() {
        const video = this.element;
        const behind = this.#newestUs / 1e6 - video.currentTime;
        if (behind > SEEK_S || behind < -SEEK_S) {
            video.currentTime = this.#newestUs / 1e6;
        } else {
            const rate = Math.min(2.5, Math.max(0.8, 1 + (behind - TARGET_S) * 2));
            video.playbackRate = Math.abs(rate - 1) < 0.06 ? 1 : Math.round(rate * 20) / 20;
        }
        if (video.paused) {
            video.play().catch((error) => error.name !== "AbortError" && this.#fail(error.message));
        }
    }

    /** Tell of each picture that the element shows. */
    #follow() {
        const video = this.element;
        const tell = (timeUs) => {
            let message = null;
            for (const [at, each] of this.#shown) {
                if (at <= timeUs + 500) {
                    message = at > (message?.at ?? -1) ? { at, each } : message;
                    this.#shown.delete(at);
                }
            }
            if (message !== null) {
                this.#host.drawn(message.each, video.videoWidth, video.videoHeight);
            }
        };
        if ("requestVideoFrameCallback" in video) {
            const next = (_, { mediaTime }) => {
                tell(mediaTime * 1e6);
                if (!this.#stopped) {
                    video.requestVideoFrameCallback(next);
                }
            };
            video.requestVideoFrameCallback(next);
        } else {
            video.ontimeupdate = () => tell(video.currentTime * 1e6);
        }
    }

    #fail(why) {
        this.#waiting.splice(0).forEach(([message]) => this.#host.done(message));
        if (!this.#stopped) {
            this.#host.fail(why);
        }
    }

    /** No more pictures; the last one stays in the element until `release`. */
    stop() {
        this.#stopped = true;
        this.element.pause();
        [...this.#waiting.splice(0), ...this.#appending.splice(0)].forEach(([message]) => this.#host.done(message));
    }

    release() {
        this.element.removeAttribute("src");
        this.element.load();
    }
}
