/** `tfjs-lora/chat`: a conversation with a model, and how its messages become a prompt. */
export {type ChatEncoder, modelChatEncoder} from './chatEncoder.ts';
export {ChatSession, type ChatSessionOptions} from './chatSession.ts';
