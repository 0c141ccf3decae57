/**
 * `tfjs-lora/chat`: a conversation with a model, and the encoding of its messages as a prompt.
 *
 * @module tfjs-lora/chat
 */
export {type ChatEncoder, modelChatEncoder} from './chatEncoder.ts';
export {ChatSession, type ChatSessionOptions} from './chatSession.ts';
