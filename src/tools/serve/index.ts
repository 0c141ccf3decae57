/**
 * `tfjs-lora/serve`, in Node: serves a model through OpenAI's API.
 *
 * @module tfjs-lora/serve
 */
export {type ModelServer, type RequestReport, type ServeOptions, serveModel} from './serveModel.ts';
