// H.264 and H.265 by the browser's own decoder (WebCodecs), where the page is a secure context.

import { codecString } from "./annexb.js";

const QUEUE = 2; // packets that wait before the decoder; what is behind them is not acknowledged
const REMEMBERED = 128;

const supported = new Map();

function isSupported(codec) {
    if (!supported.has(codec)) {
        supported.set(codec, VideoDecoder.isConfigSupported({ codec }).then((answer) => answer.supported, () => false));
    }
    return supported.get(codec);
}

/** See `Feed` in feeds.js for what a player is. */
export class WebCodecsPlayer {
    static canPlay = () => typeof VideoDecoder === "function";

    name = "webcodecs";
    element = document.createElement("canvas");
    #context = this.element.getContext("2d", { alpha: false });
    #host;
    #decoder;
    #codec = null;
    #checking = null; // messages that wait for the answer whether their codec is supported
    #queued = []; // messages in the decoder that are not acknowledged yet
    #sent = new Map(); // by presentation time
    #frame = null;
    #drawing = 0;
    #stopped = false;

    constructor(host) {
        this.#host = host;
        this.#decoder = new VideoDecoder({
            output: (frame) => this.#take(frame),
            error: (error) => this.#fail(error.message),
        });
        this.#decoder.ondequeue = () => this.#acknowledge();
    }

    push(message) {
        if (this.#checking !== null) {
            this.#checking.push(message);
            return;
        }
        if (message.discontinuity) {
            this.#codec = null;
        }
        if (message.keyframe) {
            const codec = codecString(message.codec, message.payload) ?? this.#codec;
            if (codec !== null && codec !== this.#codec) {
                this.#configure(codec, message);
                return;
            }
        }
        this.#decode(message);
    }

    async #configure(codec, message) {
        this.#checking = [message];
        const isFine = await isSupported(codec);
        const waiting = this.#checking;
        this.#checking = null;
        if (this.#stopped) {
            waiting.forEach((each) => this.#host.done(each));
            return;
        }
        if (!isFine) {
            waiting.forEach((each) => this.#host.done(each));
            this.#fail(`this browser's decoder does not take ${codec}`);
            return;
        }
        this.#forget();
        this.#decoder.reset();
        this.#decoder.configure({ codec, optimizeForLatency: true });
        this.#codec = codec;
        const [keyframe, ...others] = waiting;
        this.#decode(keyframe);
        others.forEach((each) => this.push(each));
    }

    #decode(message) {
        if (this.#codec === null || this.#decoder.state !== "configured") {
            this.#host.done(message); // nothing can be made of it before the next keyframe
            return;
        }
        this.#sent.set(message.timeUs, message);
        if (this.#sent.size > REMEMBERED) {
            this.#sent.delete(this.#sent.keys().next().value);
        }
        this.#queued.push(message);
        try {
            this.#decoder.decode(new EncodedVideoChunk({
                type: message.keyframe ? "key" : "delta", timestamp: message.timeUs, data: message.payload,
            }));
        } catch (error) {
            this.#fail(error.message);
        }
        this.#acknowledge();
    }

    #acknowledge() {
        // Not by the pictures that come out: with B-frames a decoder keeps some back until it is given more.
        const waiting = this.#decoder.state === "configured" ? this.#decoder.decodeQueueSize : 0;
        const done = this.#queued.splice(0, this.#queued.length - Math.max(0, waiting - QUEUE));
        done.forEach((message) => this.#host.done(message));
    }

    #take(frame) {
        this.#frame?.close(); // of several that come at once, the newest
        this.#frame = frame;
        this.#drawing ||= requestAnimationFrame(() => this.#draw());
    }

    #draw() {
        this.#drawing = 0;
        const frame = this.#frame;
        this.#frame = null;
        const { displayWidth: width, displayHeight: height, timestamp } = frame;
        if (this.element.width !== width || this.element.height !== height) {
            this.element.width = width;
            this.element.height = height;
        }
        this.#context.drawImage(frame, 0, 0, width, height);
        frame.close();
        const message = this.#sent.get(timestamp);
        this.#sent.delete(timestamp);
        if (message !== undefined) {
            this.#host.drawn(message, width, height);
        }
    }

    #forget() {
        this.#queued.splice(0).forEach((message) => this.#host.done(message));
        this.#sent.clear();
    }

    #fail(why) {
        this.#forget();
        if (!this.#stopped) {
            this.#host.fail(why);
        }
    }

    stop() {
        this.#stopped = true;
        this.#forget();
        cancelAnimationFrame(this.#drawing);
        this.#frame?.close();
        this.#frame = null;
        if (this.#decoder.state !== "closed") {
            this.#decoder.close();
        }
    }

    release() {}
}
